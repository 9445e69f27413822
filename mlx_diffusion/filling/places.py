"""The place of a gap on a canvas: what is pinned around it, and what of a long text is encoded before it instead.

The text before a gap needs no canvas: its far part is encoded behind the prompt, as text that has been written. The
text behind it is seen on the canvas alone, as much of it as there is room for. Knows nothing of text or of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST = 16  # positions of a canvas; the others are twice as long each, up to the checkpoint's
NEAR = 16  # tokens before a gap that are on the canvas, at least where there are as many


@dataclass(frozen=True)
class Surroundings:
    """What is known around a gap, as tokens, and the end of the text where it is known."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    stop: int | None  # ends the text behind `after`; None: more follows, which is not known


@dataclass(frozen=True)
class Place:
    """A canvas with an open place, and the tokens that are encoded before it."""

    written: tuple[int, ...]
    pinned: tuple[int, ...]  # -1 where a position is free; as many as the canvas has positions
    start: int
    count: int

    @property
    def open(self) -> slice:
        """The open place."""
        return slice(self.start, self.start + self.count)


def lengths(trained: int, wanted: int | None) -> list[int]:
    """The lengths that a canvas may have, in ascending order: the wanted one, or few of them."""
    if wanted is not None:
        return [wanted]
    found = [trained]
    while found[0] % 2 == 0 and found[0] // 2 >= SHORTEST:
        found.insert(0, found[0] // 2)
    return found


def places(around: Surroundings, counts: Sequence[int], trained: int, wanted: int | None = None) -> list[Place]:
    """One canvas for each number of open positions, all of one length and behind the same text.

    The largest of the counts must fit into a canvas. A short canvas costs less, and the shortest is taken that has room
    for what is near.
    """
    sizes, most = lengths(trained, wanted), max(counts)
    behind = len(around.after) + (around.stop is not None)
    room = sizes[-1] - most
    near_after = min(behind, max(room - NEAR, room // 2))
    near_before = min(len(around.before), NEAR, room - near_after)
    length = next(size for size in sizes if size >= near_before + most + near_after)
    shown = min(len(around.before), near_before + max(0, length - near_before - most - behind))
    return [_place(around, count, length, shown) for count in counts]


def _place(around: Surroundings, count: int, length: int, shown: int) -> Place:
    cut = len(around.before) - shown
    known = [*around.before[cut:], *[-1] * count, *around.after]
    rest = length - len(known)
    known += [-1 if around.stop is None else around.stop] * rest
    return Place(around.before[:cut], tuple(known[:length]), shown, count)
