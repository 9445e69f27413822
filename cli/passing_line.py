"""One line of news beside text on a terminal, which is gone before more text comes.

It stands behind the text where the cursor rests, in what is left of the row, and scrolls nothing. Knows nothing of the
news.
"""

import os
import sys
import time
import unicodedata
from collections.abc import Callable
from types import TracebackType
from typing import IO

from mlx_diffusion.cli.streams import err_raw, window_of
from mlx_diffusion.visible_text import notice, visible

LEAST_SECONDS = 0.1  # between two drawings
NARROWEST = 16  # cells; in fewer there is no news
TAB = 8
SAVE, RESTORE, CLEAR = "\x1b7", "\x1b8", "\x1b[K"  # the cursor's place, and the row behind it
NO_FOLDING, FOLDING = "\x1b[?7l", "\x1b[?7h"


class PassingLine:
    """News on standard error, where that is a terminal that can take a line back; nothing anywhere else."""

    def __init__(self, wanted: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self.live = wanted and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
        self.clock = clock
        self.next = 0.0
        self.shown = False
        self.column = 0  # of the cursor, in a row without end

    def __enter__(self) -> "PassingLine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Show news in place of what was shown, unless that has just been."""
        if not self.live or self.clock() < self.next:
            return
        self.next = self.clock() + LEAST_SECONDS
        width = window_of(sys.stderr)[0]
        room = width - self.column % width - 1
        if room < NARROWEST or (self.column and not self.column % width):
            self.clear()
            return
        self.shown = True
        news = notice(text if not self.column else f"  {text}")[:room]
        err_raw(f"{SAVE}{NO_FOLDING}{news}{CLEAR}{FOLDING}{RESTORE}")

    def clear(self) -> None:
        """Take the news away; the cursor is where it was before."""
        if self.shown:
            self.shown = False
            err_raw(CLEAR)

    def passed(self, text: str, stream: IO[str]) -> None:
        """Note that text has been written, which moves the cursor where it went to a terminal, too."""
        if self.live and stream.isatty():
            *lines, last = visible(text).split("\n")
            self.column = 0 if lines else self.column
            for character in last:
                self.column += TAB - self.column % TAB if character == "\t" else _cells(character)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
