"""Prints lines on standard error, after the program's name. Knows nothing of what they say."""

from mlx_diffusion.cli.streams import err
from mlx_diffusion.visible_text import notice


def say(line: str) -> None:
    """Print a message at once, in one line of bounded length."""
    err(f"mlx-diffusion: {notice(line)}")
