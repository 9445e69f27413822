"""The passes of a text behind its prompt, by kind and width, counted from the events of its run.

Knows nothing of time or of what was written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import cast

from mlx_diffusion.events import Draft, Event, Segment
from mlx_diffusion.fit.prediction import Pass, PassKind
from mlx_diffusion.fit.schedules import grown, prompt_passes

Passes = tuple[tuple[str, int, int], ...]  # kind, as `fit.prediction.PassKind` or BESIDE; positions; how many alike

BESIDE = "beside"  # a draft's step that was taken in the prompt's last pass
STEPS = ("draft", "denoise", BESIDE)  # kinds that are denoising steps
KINDS = (*STEPS, "encode", "decode")


class PassCounter:
    """Counts the passes of one row, event by event."""

    def __init__(self, denoises: bool) -> None:
        self._denoises = denoises  # canvases, which are the text; or drafts of it at most
        self._counts: Counter[tuple[str, int]] = Counter()
        self._has_begun = False  # the encoder's first choice comes with the prompt
        self._block, self._written = 0, 0  # of the canvas at work, and tokens of the one before

    def take(self, event: Event) -> None:
        """Count what the event tells of: a step, a finished canvas that was encoded, a pass that chose tokens."""
        if isinstance(event, Draft):
            if not self._denoises and not self._has_begun:
                self._counts[BESIDE, len(event.canvas)] += 1
                return
            width = len(event.canvas) + (not self._denoises)  # a draft is shown without the final token ahead of it
            width = width if event.forwarded is None else event.forwarded
            if self._denoises and event.block > self._block:
                self._block = event.block
                self._counts["encode", self._written] += 1
            self._counts["draft" if event.step == 0 else "denoise", width] += 1
        elif isinstance(event, Segment) and self._denoises:
            self._written = len(event.tokens)
        elif isinstance(event, Segment):
            if self._has_begun:
                self._counts["decode", 1 + event.drafted] += 1
            self._has_begun = True

    @property
    def passes(self) -> Passes:
        return tuple((*shape, times) for shape, times in sorted(self._counts.items()))


def denoised(steps: int, canvases: int, length: int) -> Passes:
    """The passes of canvases of one length, so many steps over all of them; all but the last were encoded."""
    counts = {"draft": canvases, "denoise": steps - canvases, "encode": canvases - 1}
    return tuple((kind, length, times) for kind, times in counts.items() if times)


def as_passes(passes: Passes, prefix: int) -> tuple[Pass, ...]:
    """The same behind `prefix` encoded positions, with the logits that each kind needs."""
    found: list[Pass] = []
    for kind, width, times in passes:
        if kind == BESIDE:
            last = prompt_passes(prefix)[-1]
            found += grown(width, last.positions, last.prefix, times)
        else:
            found.append(Pass(cast(PassKind, kind), width, prefix, 0 if kind == "encode" else width, times))
    return tuple(found)


def count_passes(passes: Passes) -> int:
    """The number of passes."""
    return sum(times for kind, _, times in passes if kind != BESIDE)


def count_positions(passes: Passes) -> int:
    """Positions that went through the layers, over all passes."""
    return positions_of(passes, KINDS)


def positions_of(passes: Passes, kinds: Iterable[str]) -> int:
    """Positions that went through the layers in passes of these kinds."""
    return sum(width * times for _, width, times in _of(passes, kinds))


def count_steps(passes: Passes) -> int:
    """The number of denoising steps."""
    return sum(times for _, _, times in _of(passes, STEPS))


def count_rounds(passes: Passes) -> int:
    """The number of passes that chose tokens by the encoder."""
    return count_passes(_of(passes, ("decode",)))


def count_drafted(passes: Passes) -> int:
    """Tokens of drafts that were verified."""
    return sum((width - 1) * times for _, width, times in _of(passes, ("decode",)))


def check_passes(passes: Passes) -> None:
    """Refuse what was read by a ValueError, unless it can be."""
    for kind, width, times in passes:
        if kind not in KINDS or width < 1 or times < 1:
            raise ValueError("passes that cannot be")
    if len({(kind, width) for kind, width, _ in passes}) < len(passes):
        raise ValueError("passes that are counted twice")


def _of(passes: Passes, kinds: Iterable[str]) -> Passes:
    return tuple(entry for entry in passes if entry[0] in kinds)
