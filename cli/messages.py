"""Prints lines on standard error, after the program's name. Knows nothing of what they say."""

import sys


def say(line: str) -> None:
    """Print a line at once."""
    print(f"mlx-diffusion: {line}", file=sys.stderr, flush=True)
