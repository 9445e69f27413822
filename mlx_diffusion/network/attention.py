"""Attention of one layer, over one set of weights: `encode` writes the prefix cache, `denoise` only reads it.

The scale is 1: q_norm and k_norm carry it. Full layers have no v_proj, their values are the raw keys, normed apart.
Knows nothing of how masks come about, nor of the layer around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion.checkpoint.config import SLIDING, LayerType, ModelConfig
from mlx_diffusion.network.cache import KeysValues, LayerCache
from mlx_diffusion.network.layers import RotaryEmbedding, rms_norm
from mlx_diffusion.network.masks import KeysSeen
from mlx_diffusion.network.split_attention import CANVAS_SCORES, Part, attend, cut, widest


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer_type: LayerType) -> None:
        super().__init__()
        hidden, heads, eps = config.hidden_size, config.num_attention_heads, config.rms_norm_eps
        kv_heads, head_dim = config.head_shape(layer_type)
        self.q_proj = nn.Linear(hidden, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * head_dim, bias=False)
        if layer_type == SLIDING:
            self.v_proj = nn.Linear(hidden, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, hidden, bias=False)
        self.q_norm = nn.RMSNorm(head_dim, eps=eps)
        self.k_norm = nn.RMSNorm(head_dim, eps=eps)
        self._rope = RotaryEmbedding(config, layer_type)
        self._head_dim, self._eps = head_dim, eps

    def encode(
        self,
        x: mx.array,
        seen: Sequence[KeysSeen],
        real: mx.array | None,
        position: int | mx.array,
        cache: LayerCache,
    ) -> mx.array:
        """x [B, P, D], its first token at `position`; takes keys and values into the cache. Returns [B, P, D].

        seen: the keys at hand in parts, see `encoder_masks`. real [B, P] marks what is no padding: a pad attends to
        nothing and gets zeros, as in Transformers.
        """
        queries, keys, values = self._project(x, position)
        keys, values = cache.append(keys, values)
        attended = attend(queries, (Part(keys[:, :, own], values[:, :, own], mask) for own, mask in seen))
        if real is not None:
            attended = mx.where(real[:, None, :, None], attended, 0)
        return self._joined(attended)

    def denoise(
        self, x: mx.array, prefix: KeysValues | tuple[()], seen: mx.array | None, position: int | mx.array
    ) -> mx.array:
        """x [B, L, D], a canvas whose first token stands at `position`, behind a prefix. Returns [B, L, D].

        prefix: keys and values, [B, K, room, S]; seen [B, 1, 1, room] marks those that count.
        """
        queries, keys, values = self._project(x, position)
        parts = [Part(keys, values)]
        if prefix:
            assert seen is not None
            cached_keys, cached_values = prefix
            cuts = cut(seen.shape[-1], widest(queries.size // self._head_dim, CANVAS_SCORES))
            parts = [*(Part(cached_keys[:, :, own], cached_values[:, :, own], seen[..., own]) for own in cuts), *parts]
        return self._joined(attend(queries, parts))

    def _project(self, x: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries [B, H, L, S], keys and values [B, K, L, S], normed and turned."""
        queries = self._split(self.q_proj(x))
        keys = self._split(self.k_proj(x))
        values = self._split(self.v_proj(x)) if "v_proj" in self else keys
        return (
            self._rope(self.q_norm(queries), position),
            self._rope(self.k_norm(keys), position),
            rms_norm(values, self._eps),
        )

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], -1, self._head_dim).swapaxes(1, 2)

    def _joined(self, attended: mx.array) -> mx.array:
        return self.o_proj(attended.swapaxes(1, 2).flatten(2))
