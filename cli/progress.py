"""Shows the progress of long work: one live line in a terminal, a plain line every few seconds in a log.

Knows nothing of the work.
"""

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from mlx_diffusion.cli.streams import window_of
from mlx_diffusion.visible_text import notice

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
            self._write("\n")

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
            width = window_of(self.stream)[0] - 1
            self._write("\r" + notice(self.text)[:width].ljust(width))
        else:
            self._write(self.text + "\n")
        self.shown, self.time = self.text, time.monotonic()

    def _write(self, text: str) -> None:
        with suppress(OSError):  # what cannot be shown does not stop the work
            self.stream.write(text)
            self.stream.flush()
