"""The command `mlx-diffusion`: parses, calls, prints; imported as `mlx_diffusion.cli`."""
