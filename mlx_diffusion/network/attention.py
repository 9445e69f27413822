"""Attention of one layer, over one set of weights: a prompt writes the prefix cache, a canvas only reads it.

What is done position by position (projections, norms, RoPE) runs over the positions of all rows at once; each row then
attends by itself. The scale is 1: q_norm and k_norm carry it. Full layers have no v_proj, their values are the raw
keys, normed apart. Knows nothing of how masks come about, nor of the layer around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion.checkpoint.config import SLIDING, LayerType, ModelConfig
from mlx_diffusion.device import After
from mlx_diffusion.network.cache import KeysValues, LayerCache
from mlx_diffusion.network.flat import Flat
from mlx_diffusion.network.fused_attention import attend_fused, attends_fused
from mlx_diffusion.network.layers import RotaryEmbedding, rms_norm
from mlx_diffusion.network.masks import Block
from mlx_diffusion.network.split_attention import CANVAS_SCORES, Part, attend, cut, widest
from mlx_diffusion.network.traces import Run, plainly


class Projected(NamedTuple):
    """What positions ask, offer and hold, normed."""

    queries: mx.array  # [N, H, S]
    keys: mx.array  # [N, K, S]
    values: mx.array  # [N, K, S]

    def rows(self, flat: Flat) -> list[Projected]:
        """The positions of each row by itself, as attention takes them: [1, H, L, S] and [1, K, L, S]."""
        rows = zip(*map(flat.split, self), strict=True)
        return [Projected(*(mx.swapaxes(array, 0, 1)[None] for array in row)) for row in rows]


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer_type: LayerType, rope: RotaryEmbedding) -> None:
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
        self._rope = rope  # one object for all layers of a type, and so one trace
        self._head_dim, self._eps = head_dim, eps

    @property
    def dtype(self) -> mx.Dtype:
        """The type of the layer's products; norms of heads are never quantised, so theirs is it."""
        return self.q_norm.weight.dtype

    def project(self, x: mx.array) -> Projected:
        """x [N, D] of all rows; where a position stands is yet to be told, see `turned`."""
        queries, keys = self._heads(self.q_proj(x)), self._heads(self.k_proj(x))
        values = self._heads(self.v_proj(x)) if "v_proj" in self else keys
        return Projected(self.q_norm(queries), self.k_norm(keys), rms_norm(values, self._eps))

    def turned(
        self, row: Projected, first: int | mx.array, positions: mx.array | None = None, run: Run = plainly
    ) -> Projected:
        """One row's queries and keys turned by where they stand: from `first` on, or at `first` + positions."""
        queries, keys = run(self._rope.turn, None, row.queries, row.keys, first, positions)
        return Projected(queries, keys, row.values)

    def output(self, attended: mx.array) -> mx.array:
        """What was attended, [N, H, S], back to [N, D]."""
        return self.o_proj(attended.flatten(1))

    def _heads(self, x: mx.array) -> mx.array:
        return x.reshape(x.shape[0], -1, self._head_dim)


def attend_causally(row: Projected, blocks: Sequence[Block], cache: LayerCache, after: After) -> mx.array:
    """One row's new positions attend to what the cache holds and to themselves, and are taken in: [P, H, S].

    blocks: which queries see which of the keys at hand, see `encoder_blocks`. A block comes `after` the one before, so
    that the scores of few exist at a time.
    """
    keys, values = cache.append(row.keys, row.values)
    attended: list[mx.array] = []
    for block in blocks:
        queries = row.queries[:, :, block.queries]
        if attended:
            queries = after([queries], attended[-1:])[0]
        parts = [Part(keys[:, :, part.keys], values[:, :, part.keys], part.mask) for part in block.parts]
        attended.append(attend(queries, parts))
    return _positions_first(attended[0] if len(attended) == 1 else mx.concatenate(attended, axis=2))


def attend_both_ways(
    queries: mx.array,
    canvas: KeysValues,
    present: mx.array | None,
    prefix: KeysValues | tuple[()],
    seen: mx.array | None,
) -> mx.array:
    """Queries of a canvas, [1, H, A, S], attend to the whole canvas and to the prefix: [A, H, S].

    canvas, prefix: keys and values, [1, K, positions, S] each; present and seen, bool [1, positions], mark the
    positions of the two that count; None: all of them.
    """
    if attends_fused(queries.shape[1], canvas[0].shape[1], queries.shape[3]):
        return _positions_first(attend_fused(queries, [(prefix, seen), (canvas, present)]))
    parts = [Part(*canvas, present)]
    if prefix:
        keys, values = prefix
        cuts = cut(keys.shape[2], widest(queries.shape[1] * queries.shape[2], CANVAS_SCORES))
        parts = [
            *(Part(keys[:, :, own], values[:, :, own], None if seen is None else seen[:, own]) for own in cuts),
            *parts,
        ]
    return _positions_first(attend(queries, parts))


def _positions_first(attended: mx.array) -> mx.array:
    """[1, H, P, S] -> [P, H, S]."""
    return mx.swapaxes(attended[0], 0, 1)
