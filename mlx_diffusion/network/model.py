"""DiffusionGemma's text path: one set of weights, two passes.

`encode` runs a prompt or a finished canvas causally into the prefix cache; `denoise` runs a canvas, bidirectionally,
behind that prefix and gives logits. Source: Transformers' DiffusionGemmaForBlockDiffusion. Knows nothing of sampling,
blocks, tokens as text, or where weights come from. On a GPU it never evaluates an array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion.checkpoint.config import SLIDING, LayerType, ModelConfig
from mlx_diffusion.device import LEAST_BYTES, evaluated_after, on_cpu
from mlx_diffusion.network.attention import Attention
from mlx_diffusion.network.cache import KeysValues, LayerCache, Prefix, PrefixCache
from mlx_diffusion.network.head import Rows, Survey, softcapped, survey
from mlx_diffusion.network.layers import MLP, Experts, Router, SelfConditioning
from mlx_diffusion.network.masks import KeysSeen, encoder_masks, real_positions
from mlx_diffusion.network.sampling import columns
from mlx_diffusion.network.split_attention import PROMPT_SCORES, widest


class Layer(nn.Module):
    """Attention, then the dense MLP and the experts side by side. Each pass has its own scalar."""

    def __init__(self, config: ModelConfig, layer_type: LayerType) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, layer_type)
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

    def encode(
        self,
        x: mx.array,
        seen: Sequence[KeysSeen],
        real: mx.array | None,
        position: int | mx.array,
        cache: LayerCache,
    ) -> mx.array:
        attended = self.self_attn.encode(self.input_layernorm(x), seen, real, position, cache)
        return self._feed_forward(x + self.post_attention_layernorm(attended)) * self.encoder_scalar

    def denoise(
        self, x: mx.array, prefix: KeysValues | tuple[()], seen: mx.array | None, position: int | mx.array
    ) -> mx.array:
        attended = self.self_attn.denoise(self.input_layernorm(x), prefix, seen, position)
        return self._feed_forward(x + self.post_attention_layernorm(attended)) * self.decoder_scalar

    def _feed_forward(self, r: mx.array) -> mx.array:
        dense = self.post_feedforward_layernorm_1(self.mlp(self.pre_feedforward_layernorm(r)))
        tokens = r.flatten(0, 1)  # [B * L, D]
        experts, weights = self.router(tokens)
        routed = self.experts(self.pre_feedforward_layernorm_2(tokens), experts, weights)
        routed = self.post_feedforward_layernorm_2(routed.reshape(r.shape))
        return r + self.post_feedforward_layernorm(dense + routed)


class DiffusionGemma(nn.Module):
    """The model. Rows of a batch are padded on the left; no row's result depends on its padding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Layer(config, layer_type) for layer_type in config.layer_types]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        # On a CPU every fused kernel is a run of the machine's C++ compiler, 40 s in all before the first step.
        self.compiled = not on_cpu()
        self._traced = mx.compile(self._surveyed)

    @property
    def dtype(self) -> mx.Dtype:
        """The type of activations; the norms are never quantised, so theirs is it."""
        return self.norm.weight.dtype

    def make_cache(self, left_padding: Sequence[int]) -> PrefixCache:
        """An empty cache; left_padding counts the pads at the start of each row, [0] for a single prompt."""
        return PrefixCache(self.config, left_padding)

    def encode(self, tokens: mx.array, cache: PrefixCache) -> mx.array:
        """Encode int32 [B, P] that follow what the cache holds, and append their keys and values to it.

        Returns the hidden states [B, P, D] after the final norm. All is lazy: who needs the cache alone evaluates
        `cache.arrays()`, and what only the hidden states need is never computed.
        """
        start, end = cache.offset, cache.offset + tokens.shape[1]
        width = widest(tokens.size * self.config.num_attention_heads, PROMPT_SCORES)
        seen = {}
        for layer_type in set(self.config.layer_types):
            window = self._window(layer_type)
            first = cache.first_held(window)
            seen[layer_type] = encoder_masks(range(start, end), first, window, cache.padding_from(first), width)
        padded = cache.padding_from(start) is not None
        real = real_positions(start, end, cache.left_padding) if padded else None

        position = cache.next_position
        x = self.embed(tokens)
        for layer, layer_type, entry in zip(self.layers, self.config.layer_types, cache.layers, strict=True):
            x = layer.encode(x, seen[layer_type], real, position, entry)
        cache.advance(tokens.shape[1])
        return self.norm(x)

    def survey(
        self, canvas: mx.array, soft: mx.array, prefix: Prefix, temperature: mx.array, gumbel: mx.array
    ) -> Survey:
        """What the logits of `denoise`, divided by the temperature, say at each position of a canvas, int32 [B, L].

        soft [B, L, D] is `Survey.soft` of the step before, zeros at the first; prefix is `PrefixCache.prefix()`, gumbel
        what `gumbel_source` gives. A pure function: where `compiled`, it is traced once for each combination of shapes.
        The logits exist in chunks of the vocabulary alone.
        """
        run = self._traced if self.compiled else self._surveyed
        return Survey(*run(canvas, soft, prefix, temperature, gumbel))

    def denoise(self, canvas: mx.array, soft: mx.array | None, cache: PrefixCache) -> mx.array:
        """Logits float32 [B, L, V], softcapped, for the canvas int32 [B, L] that follows the cached prefix.

        soft [B, L, D] is the soft signal of the previous step, None at the first. Writes nothing; any L will do.
        """
        soft = self.no_signal(canvas.shape) if soft is None else soft
        return self.logits(self._decode(canvas, soft, cache.prefix()))

    def no_signal(self, shape: Sequence[int]) -> mx.array:
        """The soft signal of the first step of a canvas [B, L]: zeros [B, L, D]."""
        return mx.zeros((*shape, self.config.hidden_size), self.dtype)

    def logits(self, x: mx.array) -> mx.array:
        """What comes out of the last layer, [..., D], to logits float32 [..., V], softcapped."""
        return softcapped(self._table().project(self.norm(x)), self.config.final_logit_softcapping)

    def soft_embedding(self, logits: mx.array) -> mx.array:
        """The soft signal for the next step: softmax of processed logits [B, L, V] over the embeddings, [B, L, D]."""
        probabilities = mx.softmax(logits.astype(mx.float32), axis=-1).astype(self.dtype)
        return self._table().mix(probabilities) * self.config.hidden_size**0.5

    def survey_hidden(self, x: mx.array, temperature: float | mx.array, gumbel: mx.array) -> Survey:
        """`survey` of what comes out of the last layer, [B, L, D]."""
        chunk_bytes = 4 * x.shape[0] * x.shape[1] * columns(self.config.vocab_size)
        after = mx.depends if self.compiled or chunk_bytes < LEAST_BYTES else evaluated_after
        said = survey(self.norm(x), self.embed_tokens, self.config.final_logit_softcapping, temperature, gumbel, after)
        return said._replace(soft=said.soft * self.config.hidden_size**0.5)

    def _surveyed(
        self, canvas: mx.array, soft: mx.array, prefix: tuple[Any, ...], temperature: mx.array, gumbel: mx.array
    ) -> tuple[mx.array, ...]:
        """`survey` on plain tuples, which is what a trace passes on."""
        return self.survey_hidden(self._decode(canvas, soft, Prefix(*prefix)), temperature, gumbel)

    def _decode(self, canvas: mx.array, soft: mx.array, prefix: Prefix) -> mx.array:
        """The canvas through all layers: [B, L, D]."""
        x = self.self_conditioning(self.embed(canvas), soft)
        for layer, layer_type, entry in zip(self.layers, self.config.layer_types, prefix.layers, strict=True):
            x = layer.denoise(x, entry, prefix.seen.get(layer_type), prefix.position)
        return x

    def _table(self) -> Rows:
        return Rows.of(self.embed_tokens)

    def embed(self, tokens: mx.array) -> mx.array:
        """Token ids to what goes into the first layer."""
        return self.embed_tokens(tokens).astype(self.dtype) * self.config.hidden_size**0.5  # [B, L, D]

    def _window(self, layer_type: LayerType) -> int | None:
        return self.config.sliding_window if layer_type == SLIDING else None
