"""Checks of the device: every kernel that the model uses, its error against float64 and its rate."""
