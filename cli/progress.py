"""Shows the progress of long work: one live line in a terminal, a plain line every few seconds in a log.

Knows nothing of the work.
"""

import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

LIVE_SECONDS = 0.2
LOG_SECONDS = 5.0


class ProgressLine:
    """Shows the latest text that it was given, not too often; the first and the last always."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.text = ""
        self.shown = ""
        self.time = 0.0

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.text != self.shown:
            self._draw()
        if self.live and self.shown:
            self.stream.write("\n")
            self.stream.flush()

    def show(self, text: str) -> None:
        self.text = text
        if not self.shown or time.monotonic() - self.time >= (LIVE_SECONDS if self.live else LOG_SECONDS):
            self._draw()

    def announce(self, text: str) -> None:
        """Show a text at once, since what begins may take long."""
        self.text = text
        if text != self.shown:
            self._draw()

    def _draw(self) -> None:
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r" + self.text[:width].ljust(width))
        else:
            self.stream.write(self.text + "\n")
        self.stream.flush()
        self.shown, self.time = self.text, time.monotonic()
