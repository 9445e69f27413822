"""Attention masks for encoding a prompt: blocks of queries, the keys that each can see, and masks within them.

Pure functions of positions, counted from the first key at hand. True means "is seen"; a mask that would hide nothing is
None, a plainly causal one the string that MLX's attention understands. Knows nothing of caches, layers or tokens.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import mlx.core as mx

Mask = mx.array | Literal["causal"] | None

QUERIES = 128  # of a block: more would compute more scores that are masked, fewer would start more kernels
LEAST_QUERIES = 64


class KeysSeen(NamedTuple):
    """Some of the keys that a block of queries sees, and which query sees which."""

    keys: slice
    mask: Mask


class Block(NamedTuple):
    """Queries that attend together, and the keys that any of them sees, in parts."""

    queries: slice
    parts: list[KeysSeen]


def first_seen(end: int, window: int | None) -> int:
    """The first of the positions … end - 1 that anything after them can see.

    In sliding layers the next token to be encoded sees window - 1 positions before itself, and so does a canvas: its
    window is anchored at its start, not at each query.
    """
    return 0 if window is None else max(0, end - (window - 1))


def causal_mask(queries: range, keys: range, window: int | None) -> Mask:
    """Query i sees the keys j <= i, in sliding layers the last `window` of them, itself included.

    queries and keys are ranges of positions. Returns None, "causal" or bool [queries, keys].
    """
    if window is None or queries[-1] - keys[0] < window:
        if keys[-1] <= queries[0]:
            return None
        if keys[-1] == queries[-1]:
            return "causal"
    query = mx.arange(queries.start, queries.stop)[:, None]  # [queries, 1]
    key = mx.arange(keys.start, keys.stop)[None, :]  # [1, keys]
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


def blocks(before: int, count: int, window: int | None, most_keys: int) -> list[Block]:
    """How `count` new positions attend to `before` earlier ones and to themselves.

    Blocks leave out the keys that none of their queries sees: those behind, and in sliding layers those too far before.
    A part has at most `most_keys` keys. Blocks of the same shape share their masks.
    """
    size = QUERIES if window is None else min(QUERIES, max(LEAST_QUERIES, window))
    masks: dict[tuple[int, int, int, int], Mask] = {}
    found = []
    for start in range(before, before + count, size):
        end = min(start + size, before + count)
        parts = []
        for first, last in _parts(first_seen(start, window), start, end, most_keys):
            shape = (end - start, first - start, last - start, 0 if window is None else window)
            if shape not in masks:
                masks[shape] = causal_mask(range(start, end), range(first, last), window)
            parts.append(KeysSeen(slice(first, last), masks[shape]))
        found.append(Block(slice(start - before, end - before), parts))
    return found


def _parts(first: int, start: int, end: int, most: int) -> list[tuple[int, int]]:
    """The keys first … end - 1 in runs of at most `most`, none of them on both sides of `start`."""
    if end - first <= most:
        return [(first, end)]
    halves = (range(first, start, most), range(start, end, most))
    return [(one, min(one + most, half.stop)) for half in halves for one in half]
