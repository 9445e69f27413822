"""What a machine is, what a model needs of it, and whether the two go together."""
