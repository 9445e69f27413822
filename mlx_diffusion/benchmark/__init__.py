"""What a checkpoint costs and how fast it runs here; imports as `mlx_diffusion.benchmark`."""
