"""Who sees whom: attention masks as pure functions of positions.

Positions count from the start of the padded row. True means "is seen". A mask that would hide nothing is None, a
plainly causal one the string that MLX's attention understands. Knows nothing of caches, layers or tokens.
"""

from __future__ import annotations

import itertools
from typing import Literal

import mlx.core as mx

Mask = mx.array | Literal["causal"] | None
KeysSeen = tuple[slice, Mask]


def encoder_mask(queries: range, keys: range, window: int | None, left_padding: mx.array | None) -> Mask:
    """Causal: query i sees the keys j <= i, in sliding layers the last `window` of them, itself included.

    queries and keys are ranges of positions. left_padding is int32 [B], or None where no row is padded; pads are not
    seen, but by themselves: a row of a mask must not be empty.
    Returns [queries, keys], or [B, 1, queries, keys] with padding.
    """
    if left_padding is None and (window is None or queries[-1] - keys[0] < window):
        if keys[-1] <= queries[0]:
            return None
        if keys[-1] == queries[-1]:
            return "causal"
    query = mx.arange(queries.start, queries.stop)[:, None]  # [queries, 1]
    key = mx.arange(keys.start, keys.stop)[None, :]  # [1, keys]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    if left_padding is None:
        return seen
    return seen & ((key >= left_padding[:, None, None, None]) | (key == query))


def encoder_masks(
    queries: range, first_key: int, window: int | None, left_padding: mx.array | None, width: int
) -> list[KeysSeen]:
    """The keys first_key … queries[-1] in parts of at most `width`, each a slice of them with its `encoder_mask`."""
    count = queries.stop - first_key
    starts = range(0, queries.start - first_key, width), range(queries.start - first_key, count, width)
    cuts = [0, count] if count <= width else [*starts[0], *starts[1], count]
    return [
        (slice(start, end), encoder_mask(queries, range(first_key + start, first_key + end), window, left_padding))
        for start, end in itertools.pairwise(cuts)
    ]


def prefix_mask(room: int, held: int, first: int, left_padding: mx.array) -> mx.array:
    """Which of a layer's cached positions are real: the first `held` of `room`, but for pads; bool [B, 1, 1, room].

    `first` is the position of the first one, left_padding int32 [B]. The window of sliding layers is anchored at the
    canvas's start (see `first_prefix_position`), so the same row holds for all queries.
    """
    index = mx.arange(room)
    return (index < held) & (index >= left_padding[:, None, None, None] - first)


def first_prefix_position(end: int, window: int | None) -> int:
    """The first of the prefix positions … end - 1 that anything after them can see.

    In sliding layers the next token to be encoded sees window - 1 positions before itself, and so does a canvas.
    """
    return 0 if window is None else max(0, end - (window - 1))


def real_positions(first: int, end: int, left_padding: mx.array) -> mx.array:
    """Which of the positions first … end - 1 are no padding: bool [B, end - first]."""
    return mx.arange(first, end) >= left_padding[:, None]
