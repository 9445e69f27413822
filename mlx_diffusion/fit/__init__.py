"""Machines, the memory that a run of a model needs, and the verdict whether it fits."""
