"""`mlx-diffusion chat`: a conversation in the terminal in which one watches the text come into focus."""
