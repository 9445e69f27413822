"""The command `mlx-diffusion`: parse, call, print; imports as `mlx_diffusion.cli`."""
