"""`mlx-diffusion bench`: speed, memory, and how near they come to the device's limits."""
