"""`mlx-diffusion eval`: right answers and their cost, by mode and option, and the levers that hold on a checkpoint."""
