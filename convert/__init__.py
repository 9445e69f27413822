"""From Hub weights to MLX checkpoints; imports as `mlx_diffusion.convert`."""
