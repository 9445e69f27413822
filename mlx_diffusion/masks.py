"""Who sees whom: attention masks as pure functions of positions.

Positions count from the start of the padded row. True means "is seen". A mask that would hide nothing is None, a
plainly causal one the string that MLX's attention understands. Knows nothing of caches, layers or tokens.
"""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

Mask = mx.array | Literal["causal"] | None


def encoder_mask(first_key: int, first_query: int, end: int, window: int | None, left_padding: mx.array | None) -> Mask:
    """Causal: query i sees the keys j <= i, in sliding layers the last `window` of them, itself included.

    Keys are the positions first_key … end - 1, queries first_query … end - 1. left_padding is int32 [B], or None where
    no row is padded; pads are not seen, but by themselves: a row of a mask must not be empty.
    Returns [P, keys], or [B, 1, P, keys] with padding.
    """
    if left_padding is None and (window is None or end - first_key <= window):
        return "causal"
    query = mx.arange(first_query, end)[:, None]  # [P, 1]
    key = mx.arange(first_key, end)[None, :]  # [1, keys]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    if left_padding is None:
        return seen
    return seen & ((key >= left_padding[:, None, None, None]) | (key == query))


def decoder_mask(first_key: int, canvas_start: int, canvas_length: int, left_padding: mx.array | None) -> Mask:
    """Every canvas position sees the whole canvas and the same prefix positions first_key … canvas_start - 1.

    The window of sliding layers is anchored at the canvas's start (see `first_prefix_position`), so the same row
    holds for all queries. Returns [B, 1, 1, keys], or None where nothing is hidden.
    """
    if left_padding is None:
        return None
    key = mx.arange(first_key, canvas_start + canvas_length)
    return key >= left_padding[:, None, None, None]


def first_prefix_position(end: int, window: int | None) -> int:
    """The first of the prefix positions … end - 1 that anything after them can see.

    In sliding layers the next token to be encoded sees window - 1 positions before itself, and so does a canvas.
    """
    return 0 if window is None else max(0, end - (window - 1))


def real_positions(first: int, end: int, left_padding: mx.array) -> mx.array:
    """Which of the positions first … end - 1 are no padding: bool [B, end - first]."""
    return mx.arange(first, end) >= left_padding[:, None]
