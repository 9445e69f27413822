"""Chooses one option of each group so that the least is lost within a size: solved by dynamic programming.

Knows nothing of what is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST_UNITS = 2**16  # that a size is divided into; sizes are rounded up to them, so that what is chosen surely fits


class Option(NamedTuple):
    """One way to keep a group."""

    nbytes: int
    loss: float


def least_loss(groups: Sequence[Sequence[Option]], nbytes: int) -> list[int] | None:
    """The number of the option to take of each group; None where not even the smallest fit.

    Best to within one unit a group: a 65,536th of the size, or the greatest common divisor of all sizes if that is
    more, which makes it exact.
    """
    unit = max(math.gcd(*(choice.nbytes for group in groups for choice in group)), -(-nbytes // MOST_UNITS), 1)
    room = nbytes // unit
    best = np.zeros(room + 1)
    taken = []
    for group in groups:
        sizes = [-(-choice.nbytes // unit) for choice in group]
        rows = np.full((len(group), room + 1), np.inf)
        for row, size, choice in zip(rows, sizes, group, strict=True):
            if size <= room:
                row[size:] = best[: room + 1 - size] + choice.loss
        numbers = rows.argmin(axis=0)
        best = np.take_along_axis(rows, numbers[None], axis=0)[0]
        taken.append((numbers.astype(np.int16), sizes))
    if not np.isfinite(best[room]):
        return None
    chosen = []
    for numbers, sizes in reversed(taken):
        chosen.append(int(numbers[room]))
        room -= sizes[chosen[-1]]
    return chosen[::-1]
