"""Draws lines in the terminal over and over, below the text that stays.

The cursor rests at the top left of what is drawn, where terminals keep it when they fold lines anew for another width;
so the next drawing finds its place, whatever happened to the last one. Knows nothing of what is drawn.
"""

import contextlib
import sys
import termios
from collections.abc import Iterator, Sequence
from typing import IO

from mlx_diffusion.cli.streams import window_of

BEGIN = "\x1b[?2026h\x1b[?25l\x1b[?7l"  # all at once, without cursor, without folding
END = "\x1b[?7h\x1b[?2026l"
CLEAR_LINE = "\x1b[2K"
CLEAR_BELOW = "\x1b[J"
SHOW_CURSOR = "\x1b[?25h"


class Stage:
    """Lines that are drawn in place on a terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.drawn = False

    def size(self) -> tuple[int, int]:
        """The columns and rows of the window at this moment."""
        return window_of(self.stream)

    def draw(self, lines: Sequence[str]) -> None:
        """Show `lines`, at least one, in place of what was drawn; each must fit the window."""
        above = "".join(f"{CLEAR_LINE}{line}\r\n" for line in lines[:-1])
        back = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        self.stream.write(f"{BEGIN}\r{above}{CLEAR_BELOW}{lines[-1]}\r{back}{END}")
        self.stream.flush()
        self.drawn = True

    def clear(self) -> None:
        """Remove what was drawn; the cursor is then where it was before."""
        if self.drawn:
            self.stream.write(f"\r{CLEAR_BELOW}{SHOW_CURSOR}")
            self.stream.flush()
            self.drawn = False


@contextlib.contextmanager
def no_echo() -> Iterator[None]:
    """Hide what is typed while nothing reads it, and keep it for the next prompt. Ctrl-C works."""
    try:
        descriptor = sys.stdin.fileno()
        before, quiet = termios.tcgetattr(descriptor), termios.tcgetattr(descriptor)
    except (AttributeError, OSError, ValueError, termios.error):  # standard input is no terminal, or closed
        yield
        return
    quiet[0] &= ~termios.ICRNL  # Enter stays Enter
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
