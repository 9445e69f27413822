"""Rows of different lengths laid one behind the other, as what is done position by position wants them.

Knows nothing of what the positions are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx

from mlx_diffusion.network.traces import rounded


@dataclass(frozen=True)
class Flat:
    """The layout of a batch: each row's positions, the places that it takes, and the places in all."""

    counts: tuple[int, ...]
    widths: tuple[int, ...]
    total: int

    @classmethod
    def of(cls, counts: Sequence[int], few_sizes: bool = False) -> Flat:
        """As many places as positions; or, with `few_sizes`, somewhat more, so that there are few sizes (`rounded`)."""
        if not few_sizes:
            return cls(tuple(counts), tuple(counts), sum(counts))
        widths = tuple(map(rounded, counts))
        return cls(tuple(counts), widths, rounded(sum(widths)))

    def join(self, rows: Sequence[mx.array]) -> mx.array:
        """One array of each row, [count or width, ...], to [total, ...]; zeros where no position is."""
        wide = [_widened(row, width) for row, width in zip(rows, self.widths, strict=True)]
        return _widened(wide[0] if len(wide) == 1 else mx.concatenate(wide), self.total)

    def split(self, array: mx.array) -> list[mx.array]:
        """[total, ...] to each row's [width, ...]."""
        ends = list(accumulate(self.widths))
        if ends == [self.total]:
            return [array]
        parts: list[mx.array] = list(mx.split(array, ends if ends[-1] < self.total else ends[:-1]))
        return parts[: len(ends)]

    def take(self, array: mx.array) -> list[mx.array]:
        """[total, ...] to each row's [count, ...]."""
        return [row[:count] for row, count in zip(self.split(array), self.counts, strict=True)]


def _widened(array: mx.array, length: int) -> mx.array:
    missing = length - array.shape[0]
    return mx.concatenate([array, mx.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array
