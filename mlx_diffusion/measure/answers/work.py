"""The work of an answer: the passes that it took behind its prompt, by kind and width, counted from events.

Knows nothing of time or of what was written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mlx_diffusion.events import Draft, Event, Segment

Work = tuple[tuple[str, int, int], ...]  # kind of pass, as in `fit.prediction.PassKind`; its positions; how many alike

STEPS = ("draft", "denoise")  # kinds of pass that are denoising steps
KINDS = (*STEPS, "encode", "decode")


class WorkCounter:
    """Counts the passes of one row, event by event."""

    def __init__(self, denoises: bool) -> None:
        self._denoises = denoises  # canvases, which are the text; or drafts of it at most
        self._counts: Counter[tuple[str, int]] = Counter()
        self._has_begun = False  # the encoder's first choice comes with the prompt

    def take(self, event: Event) -> None:
        """Count what the event tells of: a step, a finished canvas that was encoded, a pass that chose tokens."""
        if isinstance(event, Draft):
            width = len(event.canvas) + (not self._denoises)  # a draft is shown without the final token ahead of it
            if self._denoises and event.step == 0 and event.block > 0:
                self._counts["encode", width] += 1
            self._counts["draft" if event.step == 0 else "denoise", width] += 1
        elif isinstance(event, Segment) and not self._denoises:
            if self._has_begun:
                self._counts["decode", 1 + event.drafted] += 1
            self._has_begun = True

    @property
    def work(self) -> Work:
        return tuple((*shape, times) for shape, times in sorted(self._counts.items()))


def denoised(steps: int, canvases: int, length: int) -> Work:
    """The work of canvases of one length, so many steps over all of them; all but the last were encoded."""
    counts = {"draft": canvases, "denoise": steps - canvases, "encode": canvases - 1}
    return tuple((kind, length, times) for kind, times in counts.items() if times)


def count_passes(work: Work) -> int:
    """The number of passes."""
    return sum(times for _, _, times in work)


def count_positions(work: Work) -> int:
    """Positions that went through the layers, over all passes."""
    return sum(width * times for _, width, times in work)


def count_steps(work: Work) -> int:
    """The number of denoising steps."""
    return count_passes(_of(work, STEPS))


def count_rounds(work: Work) -> int:
    """The number of passes that chose tokens by the encoder."""
    return count_passes(_of(work, ("decode",)))


def count_drafted(work: Work) -> int:
    """Tokens of drafts that were verified."""
    return sum((width - 1) * times for _, width, times in _of(work, ("decode",)))


def check_work(work: Work) -> None:
    """Refuse what was read by a ValueError, unless it can be."""
    for kind, width, times in work:
        if kind not in KINDS or width < 1 or times < 1:
            raise ValueError("passes that cannot be")
    if len({(kind, width) for kind, width, _ in work}) < len(work):
        raise ValueError("passes that are counted twice")


def _of(work: Work, kinds: Iterable[str]) -> Work:
    return tuple(entry for entry in work if entry[0] in kinds)
