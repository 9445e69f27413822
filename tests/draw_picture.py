"""The moving picture of two canvases that come into focus, as the chat draws them, from the recorded events.

python tests/draw_picture.py docs/canvas.svg

One group of text a drawing, shown in turn by CSS at the recorded times. Without animation the last one is seen alone:
the whole text. Every run of characters has its own place, and its spaces do not collapse.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import StringIO
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

from recorded_events import Recording
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mlx_diffusion.channels import TextPart
from mlx_diffusion.cli.chat.canvas import CanvasText
from mlx_diffusion.cli.chat.palette import DARK
from mlx_diffusion.cli.chat.stage import Stage
from mlx_diffusion.cli.chat.views import LiveView
from mlx_diffusion.events import Draft, Finish, Segment

COLUMNS, ROWS = 73, 24
CELL, LINE, MARGIN = 8.4, 20, 16  # pixels: the advance of a character of 14 pixels, a line, and what lies around
HOLD = 4.0  # seconds that the whole text stays
PLAIN, FAINT, BACKGROUND = "#c9d1d9", "#868887", "#161b22"
STYLE = """\
text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: {plain} }}
.frame {{ animation: {seconds:.2f}s step-end infinite }}
@media (prefers-reduced-motion: reduce) {{ .frame {{ animation: none !important }} }}"""


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


def drawings(recording: Recording) -> list[tuple[float, list[str]]]:
    """What the chat draws at every step, with the seconds since the first; the last is that of the last step."""
    finish = recording.events[-1]
    assert isinstance(finish, Finish)
    memory, now = finish.stats.peak_memory_bytes, 0.0
    stage = Frames()
    view = LiveView(
        Console(file=StringIO()),
        stage,
        CanvasText(recording.decode, stops=recording.stops),
        DARK,
        steps=recording.steps,
        memory_bytes=lambda: memory,
        clock=lambda: now,
    )
    drawn = []
    for event, seconds in zip(recording.events, recording.seconds, strict=True):
        now = 1.0 + seconds
        if isinstance(event, Draft):
            before = len(stage.frames)
            view.draft(event, "answer")
            if len(stage.frames) > before:
                drawn.append((seconds, stage.frames[-1]))
        elif isinstance(event, Segment):
            view.final(event, [TextPart("answer", event.text)])
    return drawn


def svg(prompt: str, drawn: Sequence[tuple[float, list[str]]]) -> str:
    """The picture: the prompt, and below it every drawing in its time."""
    seconds = drawn[-1][0] + HOLD
    moments = [moment / seconds for moment, _ in drawn]
    moments[0] = 0.0
    rules = [STYLE.format(plain=PLAIN, seconds=seconds)]
    groups = []
    for number, ((begin, end), (_, lines)) in enumerate(zip(pairwise([*moments, 1.0]), drawn, strict=True)):
        last = number == len(drawn) - 1
        shown = [(0.0, number == 0), (begin, True), (end, last)]
        steps = " ".join(f"{at:.2%} {{ visibility: {'visible' if seen else 'hidden'} }}" for at, seen in shown)
        rules.append(f"@keyframes f{number} {{ {steps} }}")
        rules.append(f"#f{number} {{ animation-name: f{number} }}")
        texts = [text_of(line, row) for row, line in enumerate(lines, start=2)]
        hidden = "" if last else ' visibility="hidden"'
        groups.append("\n".join([f'<g class="frame" id="f{number}"{hidden}>', *filter(None, texts), "</g>"]))
    width = round(COLUMNS * CELL + 2 * MARGIN)
    height = (max(len(lines) for _, lines in drawn) + 2) * LINE + 2 * MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        "<title>A canvas comes into focus</title>\n<style>\n" + "\n".join(rules) + "\n</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>'
    )
    return "\n".join([head, text_of(f"> {prompt}", 0), *groups, "</svg>\n"])


def text_of(line: str, row: int) -> str:
    """A line with its escape sequences, as text of which every run stands at its column."""
    spans, column = [], 0
    for segment in Text.from_ansi(line).render(Console(file=StringIO(), color_system="truecolor")):
        words, cells = segment.text.rstrip("\n"), cell_len(segment.text.rstrip("\n"))
        style = segment.style
        color = style.color.get_truecolor().hex if style and style.color else FAINT if style and style.dim else ""
        if words.strip():
            fill = f' fill="{color}"' if color else ""
            place = f'x="{MARGIN + column * CELL:.1f}" textLength="{cells * CELL:.1f}"'
            spans.append(f"<tspan {place}{fill}>{escape(words).replace(' ', chr(0xA0))}</tspan>")
        column += cells
    return f'<text y="{MARGIN + (row + 0.75) * LINE:.0f}">{"".join(spans)}</text>' if spans else ""


def draw(path: Path) -> None:
    recording = Recording.read()
    path.write_text(svg(recording.prompt, drawings(recording)), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
