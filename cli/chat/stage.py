"""Draws lines in the terminal over and over, below the text that stays.

The cursor rests at the top left of what is drawn, where terminals keep it when they fold lines anew for another width;
so the next drawing finds its place, whatever happened to the last one. Knows nothing of what is drawn.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import IO, Any

from mlx_diffusion.cli.chat.terminal_state import in_foreground, stop_process
from mlx_diffusion.cli.streams import window_of

BEGIN = "\x1b[?2026h\x1b[?25l\x1b[?7l"  # all at once, without cursor, without folding
END = "\x1b[?7h\x1b[?2026l"
CLEAR_LINE = "\x1b[2K"
CLEAR_BELOW = "\x1b[J"
SHOW_CURSOR = "\x1b[?25h"
CLEAR = f"{END}\r{CLEAR_BELOW}{SHOW_CURSOR}"  # also where a drawing has been cut off


class Stage:
    """Lines that are drawn in place on a terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.drawn = False
        self.handler: Any = None  # of SIGTSTP, while something is drawn

    def size(self) -> tuple[int, int]:
        """The columns and rows of the window at this moment."""
        return window_of(self.stream)

    def draw(self, lines: Sequence[str]) -> None:
        """Show `lines`, at least one, in place of what was drawn; each must fit the window.

        In the background nothing is drawn.
        """
        if not self._has_terminal():
            return
        if not self.drawn and threading.current_thread() is threading.main_thread():
            self.handler = signal.signal(signal.SIGTSTP, self._suspend)
        above = "".join(f"{CLEAR_LINE}{line}\r\n" for line in lines[:-1])
        back = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        self.stream.write(f"{BEGIN}\r{above}{CLEAR_BELOW}{lines[-1]}\r{back}{END}")
        self.stream.flush()
        self.drawn = True

    def clear(self) -> None:
        """Remove what was drawn; the cursor is then where it was before."""
        if not self.drawn:
            return
        self.drawn = False
        if self.handler is not None:
            signal.signal(signal.SIGTSTP, self.handler)
            self.handler = None
        self.stream.write(CLEAR)
        self.stream.flush()

    def _has_terminal(self) -> bool:
        try:
            return in_foreground(self.stream.fileno())
        except (OSError, ValueError):  # no file of the system's
            return True

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Leave an empty screen and a cursor to the shell; the next drawing comes once the process goes on."""
        with contextlib.suppress(OSError, ValueError):
            os.write(self.stream.fileno(), CLEAR.encode())  # not by the stream, which may be amidst a drawing
        if callable(self.handler):
            self.handler(number, frame)
        else:
            stop_process()
