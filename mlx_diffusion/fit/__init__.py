"""What a machine has, what a model needs, and whether the model fits the machine."""
