"""Follows one answer from its first event to its last, or until the user stops it.

Takes events and a view. Knows nothing of models or of how anything is drawn.
"""

import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import FrameType, TracebackType

from mlx_diffusion.channels import Channels, Kind
from mlx_diffusion.cli.chat.views import AnswerView, without_empty_lines
from mlx_diffusion.events import Draft, Event, Finish, Prefill, Segment

KEEP_SECONDS = 0.5  # between two times that an answer is kept while it grows
END = Segment(0, (), "")  # releases text that was held back


@dataclass(frozen=True)
class Outcome:
    """A finished or stopped answer: its final text by kind, and the last event unless it was stopped."""

    answer: str
    thought: str
    tool: str
    finish: Finish | None  # None when it was stopped


class Interrupt:
    """Ctrl-C while an answer is made: the first one asks for its end, the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interrupt":
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def follow(
    events: Generator[Event, None, None],
    channels: Channels,
    view: AnswerView,
    interrupt: Interrupt,
    keep: Callable[[str], None],
) -> Outcome:
    """Show the events until the end, or until `interrupt` asks for it.

    `keep` is told the answer so far as it grows, at the latest at the end, whichever that is.
    """
    texts: dict[Kind, str] = {"answer": "", "thought": "", "tool": ""}
    finish = None
    kept, next_time = "", 0.0

    def keep_answer() -> None:
        nonlocal kept, next_time
        answer = trimmed(texts["answer"])
        if answer and answer != kept:
            keep(answer)
            kept, next_time = answer, time.monotonic() + KEEP_SECONDS

    def take(segment: Segment, *, last: bool) -> None:
        parts = channels.push(segment.tokens, last=last)
        for part in parts:
            texts[part.kind] += part.text
        view.final(segment, parts)
        if time.monotonic() >= next_time:
            keep_answer()

    try:
        for event in events:
            match event:
                case Prefill():
                    view.reading(event)
                case Draft():
                    view.draft(event, channels.kind)
                case Segment():
                    take(event, last=False)
                case Finish():
                    finish = event
            if interrupt.asked and finish is None:
                break
        take(END, last=True)
    finally:
        events.close()
        view.close()
        keep_answer()
    return Outcome(trimmed(texts["answer"]), trimmed(texts["thought"]), texts["tool"].strip(), finish)


def trimmed(text: str) -> str:
    """The text without empty lines before it and space behind it; how far its first line is indented stays."""
    return without_empty_lines(text).rstrip()
