"""Benchmarks of a model: time, memory and work, beside the ceilings of the device and a peer's figures."""
