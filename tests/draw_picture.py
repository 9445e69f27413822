"""The picture of a canvas half way, as the chat draws it, from the recorded events.

python tests/draw_picture.py docs/canvas.svg
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from recorded_events import Recording
from rich.console import Console
from rich.text import Text

from mlx_diffusion.cli.chat.canvas import CanvasText
from mlx_diffusion.cli.chat.palette import DARK
from mlx_diffusion.cli.chat.stage import Stage
from mlx_diffusion.cli.chat.views import LiveView
from mlx_diffusion.events import Draft, Finish

COLUMNS, ROWS = 73, 24
SETTLED = 0.6  # the share at which the picture is taken


class Frames(Stage):
    """Keeps what would be drawn."""

    def __init__(self, columns: int = COLUMNS, rows: int = ROWS) -> None:
        super().__init__(StringIO())
        self.window = columns, rows
        self.frames: list[list[str]] = []

    def size(self) -> tuple[int, int]:
        return self.window

    def draw(self, lines: Sequence[str]) -> None:
        self.frames.append(list(lines))
        self.drawn = True


def half_way(recording: Recording) -> list[str]:
    """The drawing of the first step that has settled enough."""
    finish = recording.events[-1]
    assert isinstance(finish, Finish)
    clock = iter([0.0])
    now = 0.0

    def read_clock() -> float:
        nonlocal now
        now = next(clock, now)
        return now

    stage = Frames()
    canvas = CanvasText(recording.decode, stops=recording.stops)
    memory = finish.stats.peak_memory_bytes
    view = LiveView(
        Console(file=StringIO()),
        stage,
        canvas,
        DARK,
        steps=recording.steps,
        memory_bytes=lambda: memory,
        clock=read_clock,
    )
    for event, seconds in zip(recording.events, recording.seconds, strict=True):
        if isinstance(event, Draft):
            clock = iter([1.0 + seconds])
            view.draft(event, "answer")
            if event.accepted.mean() >= SETTLED:
                break
    return stage.frames[-1]


def draw(path: Path) -> None:
    recording = Recording.read()
    console = Console(record=True, width=COLUMNS, file=StringIO(), color_system="truecolor", force_terminal=True)
    console.print(f"> {recording.prompt}", highlight=False)
    for line in half_way(recording):
        console.print(Text.from_ansi(line), highlight=False)
    path.write_text(console.export_svg(title="mlx-diffusion chat", unique_id="canvas"), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
