"""Softmax attention over keys that come in parts, joined by their log-sum-exp (an online softmax).

A canvas's own keys need not be copied behind its prefix's, and long prefixes need no array of all their scores: MLX has
no fused kernel for heads of 256 and 512 and many queries, so it would make them, 4 GB at 262,144 keys. Knows nothing of
layers, caches, or which pass is running.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_diffusion.device import transposed
from mlx_diffusion.network.masks import Mask

CANVAS_SCORES, PROMPT_SCORES = 2**23, 2**21  # of one part, 34 and 8 MB in float32: prompts have no step to slow down
LEAST_WIDTH = 256
UNSEEN = float(np.finfo(np.float32).min)  # a score; where a part holds nothing to be seen, -inf would give NaN


class Part(NamedTuple):
    """Some of the keys that queries attend to, their values, [B, K, keys, S] each, and which query sees which."""

    keys: mx.array
    values: mx.array
    mask: Mask = None


def widest(rows: int, scores: int) -> int:
    """How many keys a part should have at most, for so many rows of queries (B * H * L) and scores."""
    return max(LEAST_WIDTH, scores // rows)


def cut(count: int, width: int) -> list[slice]:
    """`count` positions in slices of `width`, the last one shorter."""
    return [slice(first, min(first + width, count)) for first in range(0, count, width)]


def attend(queries: mx.array, parts: Iterable[Part]) -> mx.array:
    """Attention with a scale of 1 over all parts, as if they were one: [B, H, L, S] -> [B, H, L, S].

    A query must see a key of some part. Lazy, in one graph: a part waits for the one before, so that MLX holds few.
    """
    parts = list(parts)
    if len(parts) == 1:
        keys, values, mask = parts[0]
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask=mask)
    shape = queries.shape
    grouped = (shape[0], parts[0].keys.shape[1], -1, shape[3])  # [B, K, H / K * L, S]
    queries = queries.reshape(grouped)
    total, attended = _attend(queries, parts[0], shape[2])
    for part in parts[1:]:
        if len(parts) > 2:
            queries = mx.depends([queries], [total, attended])[0]
        log_sum, values = _attend(queries, part, shape[2])
        attended = attended + mx.sigmoid(log_sum - total) * (values - attended)
        total = mx.logaddexp(total, log_sum)
    return attended.astype(queries.dtype).reshape(shape)


def _attend(queries: mx.array, part: Part, length: int) -> tuple[mx.array, mx.array]:
    """One part alone: log-sum-exp of the scores [B, K, H / K * L, 1], and what is attended, [B, K, H / K * L, S]."""
    scores = (queries @ transposed(part.keys)).astype(mx.float32)
    if part.mask is not None:
        by_query = scores.reshape(*scores.shape[:2], -1, length, scores.shape[-1])
        scores = mx.where(_by_query(part.mask, length, scores.shape[-1]), by_query, UNSEEN).reshape(scores.shape)
    weights = mx.softmax(scores, axis=-1)
    # The largest weight is 1 / sum(exp(score - largest score)): no second pass of exponentials.
    log_sum = scores.max(axis=-1, keepdims=True) - mx.log(weights.max(axis=-1, keepdims=True))
    return log_sum, (weights.astype(queries.dtype) @ part.values).astype(mx.float32)


def _by_query(mask: mx.array | Literal["causal"], length: int, keys: int) -> mx.array:
    """A mask for scores [1, K, H / K, L, keys]; "causal": the last query sees all keys, each before it one less."""
    if isinstance(mask, str):
        return mx.arange(keys) <= mx.arange(keys - length, keys)[:, None]
    return mask  # bool [keys] or [L, keys]
