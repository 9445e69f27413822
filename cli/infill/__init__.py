"""`mlx-diffusion infill`: what belongs into the gaps of a file."""
