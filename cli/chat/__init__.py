"""`mlx-diffusion chat`: a conversation in the terminal, with text that comes into focus."""
