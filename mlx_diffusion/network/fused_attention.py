"""Attention by one fused kernel of MLX over all keys, which makes no array of scores: where the device has one.

Knows nothing of layers, caches, or which pass is running.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import mlx.core as mx

from mlx_diffusion.device import activation_dtype, on_cpu
from mlx_diffusion.network.cache import SeenKeys
from mlx_diffusion.tuning import tuning

PROBED_QUERIES, PROBED_KEYS = 32, 64


def attends_fused(heads: int, kv_heads: int, head_dim: int) -> bool:
    """True if canvases attend by a fused kernel here, by the settings of this device."""
    wanted = tuning().fused_heads
    return (wanted is None or head_dim in wanted) and has_kernel(heads, kv_heads, head_dim)


def has_kernel(heads: int, kv_heads: int, head_dim: int) -> bool:
    """True if MLX has a fused kernel for canvases with such heads on this device."""
    return not on_cpu() and _probe(heads, kv_heads, head_dim, tuning().projection_dtype or activation_dtype())


def attend_fused(queries: mx.array, parts: Sequence[SeenKeys]) -> mx.array:
    """Attention with a scale of 1 over all parts, whose keys are joined: [B, H, L, S] -> [B, H, L, S].

    Raises ValueError where MLX has no such kernel.
    """
    found = [(keys_values, seen) for keys_values, seen in parts if keys_values]
    keys, values = (mx.concatenate([own[index] for own, _ in found], axis=2) for index in (0, 1))
    mask = None
    if any(seen is not None for _, seen in found):
        masks = [mx.ones((1, own[0].shape[2]), dtype=mx.bool_) if seen is None else seen for own, seen in found]
        mask = mx.concatenate(masks, axis=-1)[:, None, None]
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask=mask, force_fused=True)


@cache
def _probe(heads: int, kv_heads: int, head_dim: int, dtype: mx.Dtype) -> bool:
    queries = mx.zeros((1, heads, PROBED_QUERIES, head_dim), dtype)
    keys = mx.zeros((1, kv_heads, PROBED_KEYS, head_dim), dtype)
    try:
        attend_fused(queries, [((keys, keys), mx.ones((1, PROBED_KEYS), dtype=mx.bool_))])
    except ValueError:  # said when the graph is built, before anything runs
        return False
    return True
