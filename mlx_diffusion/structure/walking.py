"""A canvas walked through by a guide, from the left: what it refuses is replaced by the best that it allows.

Knows nothing of steps, samplers or where logits come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mlx_diffusion.structure.following import Followed
from mlx_diffusion.structure.guide import Guide

Rows = Callable[[int], np.ndarray]  # a position -> its logits, float32 [V]


class Walked(NamedTuple):
    """What a walk makes of a canvas of L tokens."""

    tokens: list[int]  # [L], behind the text's end as they were
    length: int  # how many of them the walk has seen
    repaired: int  # how many of those it has replaced
    guide: Guide  # behind them

    @property
    def whole(self) -> bool:
        """Whether the walk came to the end of the text or of the canvas."""
        return self.guide.complete or self.length == len(self.tokens)


def walk(guide: Guide, proposed: Sequence[int], logits: Rows, repairs: int) -> Walked:
    """Walk on, with at most so many repairs. The guide itself stays where it is, at the canvas's beginning."""
    guide, tokens = guide.copied(), list(proposed)
    place = repaired = 0
    while True:
        place += guide.advance(tokens[place:])
        if place == len(tokens) or guide.complete or repaired == repairs or not guide.goes_on:
            return Walked(tokens, place, repaired, guide)
        tokens[place] = best_allowed(guide.allowed(), logits, place)
        guide.take(tokens[place])
        repaired += 1
        place += 1


def best_allowed(mask: np.ndarray, logits: Rows, place: int) -> int:
    """The most likely token of those allowed, uint32 [words], at a position."""
    allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    if len(allowed) == 1:
        return int(allowed[0])
    return int(allowed[np.argmax(logits(place)[allowed])])


def settle(guide: Guide, walked: Walked, room: int) -> Followed:
    """The tokens of a canvas that is final: the walk's, as far as an ending of the text has room behind them.

    guide: at the canvas's beginning. room: how many tokens there may be.
    """
    tokens = walked.tokens[: walked.length]
    if walked.guide.complete and len(tokens) <= room:
        return Followed(tokens, len(tokens), walked.guide, "stop")
    if walked.whole and walked.guide.fits(room - len(tokens)):
        return Followed(tokens, len(tokens), walked.guide, None if len(tokens) < room else "length")
    for count in range(min(len(tokens), room), -1, -1):
        place = guide.copied()
        ending = place.ending() if place.advance(tokens[:count]) == count else None
        if ending is not None and len(ending) <= room - count:
            return Followed([*tokens[:count], *ending], count, place, "length")
    return Followed(guide.ending() or [], 0, guide, "length")
