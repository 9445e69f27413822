"""One transformer layer over the rows of a batch: attention, then the dense MLP and the experts side by side.

Knows nothing of embeddings, of the head, or of the layers before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion.checkpoint.config import SLIDING, LayerType, ModelConfig
from mlx_diffusion.device import After, over_cores, spread
from mlx_diffusion.network import masks
from mlx_diffusion.network.attention import Attention, Projected, attend_both_ways, attend_causally
from mlx_diffusion.network.cache import KeysValues, LayerCache, SeenKeys
from mlx_diffusion.network.flat import Flat
from mlx_diffusion.network.layers import MLP, Experts, RotaryEmbedding, Router, unshrunk
from mlx_diffusion.network.masks import Block, first_seen
from mlx_diffusion.network.rows import View
from mlx_diffusion.network.split_attention import PROMPT_SCORES, widest
from mlx_diffusion.network.traces import Run, plainly


class Beside(NamedTuple):
    """A canvas that goes through the layers beside the tokens that it follows."""

    owner: int  # which of the rows it follows
    start: int  # where it begins


class Layer(nn.Module):
    """Attention, then the dense MLP and the experts side by side. Each pass has its own scalar."""

    def __init__(self, config: ModelConfig, layer_type: LayerType, rope: RotaryEmbedding) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, layer_type, rope)
        self.mlp = MLP(hidden, config.intermediate_size)
        self.router = Router(config)
        self.experts = Experts(config)
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.pre_feedforward_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.pre_feedforward_layernorm_2 = nn.RMSNorm(hidden, eps=eps)
        self.post_feedforward_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.post_feedforward_layernorm_1 = nn.RMSNorm(hidden, eps=eps)
        self.post_feedforward_layernorm_2 = nn.RMSNorm(hidden, eps=eps)
        self.encoder_scalar = mx.ones((1,))
        self.decoder_scalar = mx.ones((1,))
        # What each number of a position is multiplied with, before it attends and after.
        kv_heads, head_dim = config.head_shape(layer_type)
        heads, chosen = config.num_attention_heads, config.top_k_experts
        self._widths_before = (heads + 2 * kv_heads) * head_dim
        inner = config.intermediate_size + chosen * config.moe_intermediate_size
        self._widths_after = heads * head_dim + 3 * inner

    def encode(
        self,
        x: mx.array,
        flat: Flat,
        starts: Sequence[int],
        blocks: Sequence[Sequence[Block]],
        caches: Sequence[LayerCache],
        after: After = mx.depends,
        looked_at: mx.array | None = None,
        beside: Sequence[Beside] = (),
    ) -> mx.array:
        """x [N, D] of all rows, each from its start on; its keys and values go into its cache. Returns [N, D].

        blocks: which of a row's queries see which keys, see `encoder_blocks`. looked_at: the places that are wanted,
        int32, where not all are; the others are left out once they have attended. beside: the canvases that lie in x
        behind the rows; each sees itself and what is in its row's cache by now, and nothing of it is kept.
        """
        attended = []
        rows, texts = self.project(x).rows(flat), len(caches)
        for row, start, own, cache in zip(rows[:texts], starts, blocks, caches, strict=True):
            attended.append(attend_causally(self.self_attn.turned(row, start), own, cache, after))
        for row, (owner, start) in zip(rows[texts:], beside, strict=True):
            turned = self.self_attn.turned(row, start)
            prefix = caches[owner].seen_by_canvas(few_shapes=False)
            attended.append(attend_both_ways(turned.queries, (turned.keys, turned.values), None, *prefix))
        joined, scalars = flat.join(attended), self._scalars(sum(flat.counts[:texts]), sum(flat.counts[texts:]))
        if looked_at is not None:
            x, joined = x[looked_at], joined[looked_at]
            scalars = scalars[looked_at] if beside else scalars
        return self._after_attention(x, joined) * scalars

    def denoise(
        self,
        x: mx.array,
        flat: Flat,
        views: Sequence[View],
        prefixes: Sequence[SeenKeys],
        kept: Sequence[KeysValues | None],
        run: Run = plainly,
    ) -> tuple[mx.array, list[KeysValues]]:
        """x [N, D] of all canvases, each behind its prefix; nothing is written.

        prefixes, kept: this layer's keys and values of each row's prefix, and of its canvas before this step. Returns
        [N, D] and the keys and values of each canvas.
        """
        rows = Projected(*run(Layer.project, self, x)).rows(flat)
        each = list(zip(rows, views, prefixes, kept, strict=True))
        work = sum(2 * row.queries.size * _count(view, prefix) for row, view, (prefix, _), _ in each)
        attended, canvases = zip(*spread([partial(self._attended, run, *own) for own in each], work), strict=True)
        return run(Layer.decoded, self, x, flat.join(attended)), list(canvases)

    def _attended(
        self, run: Run, row: Projected, view: View, behind: SeenKeys, old: KeysValues | None
    ) -> tuple[mx.array, KeysValues]:
        """What one canvas attends to, [A, H, S], and its keys and values."""
        turned = self.self_attn.turned(row, view.prefix.position, view.placed(row.queries.shape[2]), run)
        canvas, present = view.canvas_keys(turned, old)
        attended = run(attend_both_ways, None, turned.queries, canvas, present, *behind)
        return attended, view.trimmed(canvas)

    def project(self, x: mx.array) -> Projected:
        """What the positions of all rows, x [N, D], bring into attention."""
        return over_cores(self._projected, x.size * self._widths_before, x)

    def _projected(self, x: mx.array) -> Projected:
        return self.self_attn.project(self.input_layernorm(x).astype(self.self_attn.dtype))

    def decoded(self, x: mx.array, attended: mx.array) -> mx.array:
        """x [N, D] and what its positions attended to, [N, H, S], to what comes out of this layer of the decoder."""
        return self._after_attention(x, attended) * self.decoder_scalar

    def _scalars(self, encoded: int, decoded: int) -> mx.array:
        """The encoder's scalar for so many positions, and the decoder's for those behind them: [N, 1], or [1]."""
        if not decoded:
            return self.encoder_scalar
        own = ((self.encoder_scalar, encoded), (self.decoder_scalar, decoded))
        return mx.concatenate([mx.broadcast_to(scalar, (count, 1)) for scalar, count in own])

    def _after_attention(self, x: mx.array, attended: mx.array) -> mx.array:
        return over_cores(self._fed_forward, x.size * self._widths_after, x, attended)

    def _fed_forward(self, x: mx.array, attended: mx.array) -> mx.array:
        """Products are done in their matrices' type, which may be float16; the residual stream, x, keeps its own."""
        own, products = x.dtype, self.self_attn.dtype
        r = x + self.post_attention_layernorm(self.self_attn.output(attended).astype(own))
        dense = self.mlp(self.pre_feedforward_layernorm(r).astype(products))
        experts, weights = self.router(r)
        routed = self.experts(self.pre_feedforward_layernorm_2(r).astype(products), experts, weights)
        dense = self.post_feedforward_layernorm_1(unshrunk(dense, own))
        return r + self.post_feedforward_layernorm(dense + self.post_feedforward_layernorm_2(unshrunk(routed, own)))


def _count(view: View, prefix: KeysValues | tuple[()]) -> int:
    """How many keys a canvas attends to."""
    return view.length + (prefix[0].shape[2] if prefix else 0)


def encoder_blocks(config: ModelConfig, layer_type: LayerType, offset: int, count: int) -> list[Block]:
    """How `count` new positions of a row attend to the `offset` before them and to themselves, in layers of a type."""
    window = config.sliding_window if layer_type == SLIDING else None
    most = widest(min(count, masks.QUERIES) * config.num_attention_heads, PROMPT_SCORES)
    return masks.blocks(offset - first_seen(offset, window), count, window, most)
