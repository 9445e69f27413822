"""Shows an answer: in place while it is denoised, or as plain text once it is final.

Takes events and parts of text. Knows nothing of models, conversations or how a run is stopped.
"""

import re
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console
from rich.text import Text

from mlx_diffusion.channels import Kind, TextPart
from mlx_diffusion.cli.chat import markup
from mlx_diffusion.cli.chat.canvas import SETTLED, CanvasText
from mlx_diffusion.cli.chat.cells import Line, one_line, printable, wrap
from mlx_diffusion.cli.chat.palette import RESET, Palette
from mlx_diffusion.cli.chat.stage import Stage
from mlx_diffusion.cli.passing_line import PassingLine
from mlx_diffusion.cli.report import news
from mlx_diffusion.cli.streams import write
from mlx_diffusion.display import count_of, size_text
from mlx_diffusion.events import Draft, Prefill, Segment

_EMPTY_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
LEAST_SECONDS = 1 / 25  # between two drawings
LARGEST_SHARE = 0.02  # of the time that drawing may take


class AnswerView(Protocol):
    """Shows one answer as its events arrive."""

    def reading(self, event: Prefill) -> None:
        """The prompt is being encoded."""

    def draft(self, event: Draft, kind: Kind) -> None:
        """A denoising step; `kind` is that of the text where its canvas begins."""

    def final(self, event: Segment, parts: list[TextPart]) -> None:
        """More text that will not change."""

    def close(self) -> None:
        """No more events."""


class PlainView:
    """Writes final text as it comes; how far the work is, on standard error alone, if that is a terminal."""

    def __init__(self, stream: TextIO, steps: int = 0, wanted: bool = False) -> None:
        self.stream = stream
        self.steps = steps
        self.line = PassingLine(wanted)
        self.line.show("reading the prompt")
        self.last = "\n"
        self.begun = False

    def reading(self, event: Prefill) -> None:
        self.line.show(news(event, self.steps))

    def draft(self, event: Draft, kind: Kind) -> None:
        self.line.show(news(event, self.steps))

    def final(self, event: Segment, parts: list[TextPart]) -> None:
        text = "".join(part.text for part in parts if part.kind == "answer")
        if not self.begun:
            text = without_empty_lines(text)
        if text:
            self.begun = True
            self.line.clear()
            write(self.stream, text)
            self.line.passed(text, self.stream)
            self.last = text[-1:] or self.last

    def close(self) -> None:
        self.line.clear()
        if self.last != "\n":
            write(self.stream, "\n")


class SilentView(PlainView):
    """Shows nothing, for a caller who wants the text as a whole."""

    def final(self, event: Segment, parts: list[TextPart]) -> None:
        """Nothing."""


class Pace:
    """Decides when to draw: often enough to look alive, but only for a small share of the time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.next = 0.0
        self.spent = 0.0  # seconds of drawing, in total

    def due(self) -> bool:
        return self.clock() >= self.next

    def drew(self, started: float) -> None:
        now = self.clock()
        self.spent += now - started
        self.next = now + max(LEAST_SECONDS, (now - started) / LARGEST_SHARE)


class LiveView:
    """Shows final text as Markdown, as soon as later text cannot change it, and below it the canvas in place."""

    def __init__(
        self,
        console: Console,
        stage: Stage,
        canvas: CanvasText,
        palette: Palette,
        *,
        steps: int,
        memory_bytes: Callable[[], int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.console = console
        self.stage = stage
        self.canvas = canvas
        self.palette = palette
        self.steps = steps
        self.memory_bytes = memory_bytes
        self.clock = clock
        self.pace = Pace(clock)
        self.pending = ""  # final, but in a Markdown block that may continue
        self.thought = ""
        self.told_thought = False
        self.printed = False
        self.final_tokens = 0
        self.started: float | None = None
        self._draw([], "reading the prompt")

    def reading(self, event: Prefill) -> None:
        if self.pace.due():
            self._draw([], f"reading the prompt · {event.encoded_tokens:,} of {count_of(event.prompt_tokens, 'token')}")

    def draft(self, event: Draft, kind: Kind) -> None:
        now = self.clock()
        if self.started is None:
            self.started = now
        elif not self.pace.due():
            return
        look = self.canvas.look(event, kind)
        figures = [
            f"step {event.step + 1}/{self.steps}",
            "a draft" if self.canvas.verified else f"{look.settled:4.0%} settled",
            self._speed(self.final_tokens + round(look.settled * len(event.accepted)), now),
            size_text(self.memory_bytes()),
        ]
        if look.thought or (kind == "thought" and not look.answer):
            figures.insert(0, "thinking")
        self._draw(look.answer, " · ".join(filter(None, figures)), started=now)

    def final(self, event: Segment, parts: list[TextPart]) -> None:
        self.final_tokens += len(event.tokens)
        for part in parts:
            if part.kind == "thought":
                self.thought += part.text
            elif part.kind == "answer":
                self.pending += part.text
        if self.pending.strip():
            self._tell_thought()
        if any("\n" in part.text for part in parts):  # no block ends without one
            self._print(markup.certain_length(self.pending))
        if self.started is None:
            self.started = self.clock()
        elif self.pace.due():
            figures = [
                count_of(self.final_tokens, "token"),
                self._speed(self.final_tokens, self.clock()),
                size_text(self.memory_bytes()),
            ]
            self._draw([], " · ".join(filter(None, figures)))

    def close(self) -> None:
        self.pending = self.pending.rstrip()
        self._print(len(self.pending))
        self._tell_thought()
        self.stage.clear()

    def _speed(self, tokens: int, now: float) -> str:
        seconds = 0.0 if self.started is None else now - self.started
        return f"{tokens / seconds:.0f} tokens/s" if seconds > 0 else ""

    def _print(self, length: int) -> None:
        text, self.pending = self.pending[:length], self.pending[length:]
        text = text if self.printed else without_empty_lines(text)
        if text:
            self.stage.clear()
            markup.show(self.console, text)
            self.printed = True

    def _tell_thought(self) -> None:
        if self.thought.strip() and not self.told_thought:
            self.told_thought = True
            self.stage.clear()
            line = folded(self.thought, self.stage.size()[0] - 1)
            self.console.print(Text(line, style="dim"), soft_wrap=True)

    def _draw(self, answer: Line, status: str, started: float | None = None) -> None:
        started = self.clock() if started is None else started
        columns, rows = self.stage.size()
        width = max(columns - 1, 1)
        lines = wrap([(printable(without_empty_lines(self.pending)), SETTLED), *answer], width)
        height = max(rows - 2, 0)
        painted = [self.palette.paint(line) for line in _window(lines, height)] if self.pending or answer else []
        self.stage.draw([*painted, f"\x1b[{self.palette.status}m{one_line(status, width)}{RESET}"])
        self.pace.drew(started)


def without_empty_lines(text: str) -> str:
    """The text from its first line on that is not empty, with that line's indentation."""
    return _EMPTY_LINES.sub("", text)


def folded(thought: str, width: int) -> str:
    """A thought in one line."""
    words = len(thought.split())
    return one_line(f"thought, {count_of(words, 'word')}: {thought.strip()}", max(width, 1))


def _window(lines: list[Line], height: int) -> list[Line]:
    """As many lines as fit, with the first that is not settled among them."""
    if len(lines) <= height:
        return lines
    is_open = (index for index, line in enumerate(lines) if any(level != SETTLED for _, level in line))
    first = max(0, min(next(is_open, len(lines)) - 1, len(lines) - height))
    return lines[first : first + height]
