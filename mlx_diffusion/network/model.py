"""DiffusionGemma's text path: one set of weights, two passes over rows of any lengths.

`encode` runs prompts or finished canvases causally into their prefix caches; `survey` runs canvases, bidirectionally,
behind their prefixes and says what the logits say. What is done position by position runs over the positions of all
rows at once, [N, D]; only attention goes row by row, so that no row's result depends on its company. Source:
Transformers' DiffusionGemmaForBlockDiffusion. Knows nothing of sampling, blocks, tokens as text, or where weights come
from. On a GPU it never evaluates an array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.device import LEAST_BYTES, evaluated_after, on_cpu
from mlx_diffusion.network.cache import KeysValues, PrefixCache
from mlx_diffusion.network.flat import Flat
from mlx_diffusion.network.head import Rows, Survey, softcapped, survey_vocabulary
from mlx_diffusion.network.layers import RotaryEmbedding, SelfConditioning
from mlx_diffusion.network.rows import Passage, Seen, View
from mlx_diffusion.network.sampling import columns
from mlx_diffusion.network.traces import Traces, plainly
from mlx_diffusion.network.transformer import Beside, Layer, encoder_blocks
from mlx_diffusion.options import GenerationConfig


class DiffusionGemma(nn.Module):
    """The model, and what its checkpoint wants a generation to be."""

    def __init__(self, config: ModelConfig, generation_defaults: GenerationConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.generation_defaults = generation_defaults or GenerationConfig()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        ropes = {layer_type: RotaryEmbedding(config, layer_type) for layer_type in set(config.layer_types)}
        self.layers = [Layer(config, layer_type, ropes[layer_type]) for layer_type in config.layer_types]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        # On a CPU every fused kernel is a run of the machine's C++ compiler, 40 s in all before the first step.
        self.compiled = not on_cpu()
        self._traces = Traces()

    @property
    def dtype(self) -> mx.Dtype:
        """The type of activations between blocks; the norms are never quantised, so theirs is it."""
        return self.norm.weight.dtype

    @property
    def projection_dtype(self) -> mx.Dtype:
        """The type of large products and of what goes into them, as the soft signal does."""
        return self.self_conditioning.pre_norm.weight.dtype

    def make_cache(self, spare: int | None = None) -> PrefixCache:
        """The empty cache of a row, from which up to `spare` positions can be taken back: a canvas, if not given."""
        return PrefixCache(self.config, self.config.canvas_length if spare is None else spare)

    def encode(self, passages: Sequence[Passage]) -> mx.array:
        """Encode the tokens of all rows and append their keys and values to the rows' caches.

        Returns the hidden states after the final norm of the positions that are looked at, [N, D], row after row:
        `unembed` makes of them the logits of a causal language model. Behind them come those of the canvases that the
        passages bring, for `survey_hidden`: a canvas takes its first denoising step in the very pass that encodes the
        tokens before it. All is lazy: who needs a cache alone evaluates `cache.arrays()`, and what only the hidden
        states need is never computed.
        """
        canvases = [passage.canvas for passage in passages if passage.canvas is not None]
        flat = Flat.of([tokens.shape[0] for tokens in (*(passage.tokens for passage in passages), *canvases)])
        starts = [passage.cache.offset for passage in passages]
        blocks = {
            layer_type: [encoder_blocks(self.config, layer_type, p.cache.offset, p.tokens.shape[0]) for p in passages]
            for layer_type in set(self.config.layer_types)
        }
        beside = [
            Beside(row, passage.cache.offset + passage.tokens.shape[0])
            for row, passage in enumerate(passages)
            if passage.canvas is not None
        ]
        x = self.embed(mx.concatenate([*(passage.tokens for passage in passages), *canvases]))
        if canvases:
            texts = sum(flat.counts[: len(passages)])
            signal = self.no_signal(flat.total - texts)
            x = mx.concatenate([x[:texts], self.self_conditioning(x[texts:], signal)])
        for index, (layer, layer_type) in enumerate(zip(self.layers, self.config.layer_types, strict=True)):
            # Who wants the caches alone needs nothing of the last layer's attention: nothing of it is evaluated here.
            after = evaluated_after if on_cpu() and index < len(self.layers) - 1 else mx.depends
            caches = [passage.cache.layers[index] for passage in passages]
            looked_at = _looked_at(passages, flat) if index == len(self.layers) - 1 else None
            x = layer.encode(x, flat, starts, blocks[layer_type], caches, after, looked_at, beside)
        for passage in passages:
            passage.cache.advance(passage.tokens.shape[0])
        return self.norm(x)

    def survey(
        self, views: Sequence[View], temperatures: Sequence[mx.array], gumbels: Sequence[mx.array]
    ) -> list[Seen]:
        """What the logits of each row's canvas, divided by its temperature, say of the positions that are surveyed.

        temperatures: float32 [1] each. gumbels: a key each, uint32 [2], or noise of the whole canvas, float32 [L, V].
        Writes nothing. A pure function: where `compiled`, it runs through traces, few for all lengths and batches.
        The logits exist in chunks of the vocabulary alone.
        """
        flat = Flat.of([view.tokens.shape[0] for view in views], few_sizes=self.compiled)
        x, kept = self._decode(views, flat)
        x, flat = self._asked(x, flat, views)
        hidden = self.run(nn.RMSNorm.__call__, self.norm, x)
        rows = zip(*map(flat.take, self._survey(hidden, flat, views, temperatures, gumbels)), strict=True)
        return [Seen(Survey(*row), own, out) for row, own, out in zip(rows, kept, flat.take(hidden), strict=True)]

    def survey_hidden(
        self, hidden: mx.array, views: Sequence[View], temperatures: Sequence[mx.array], gumbels: Sequence[mx.array]
    ) -> list[Seen]:
        """The same of canvases that have been through the layers, from their hidden states [N, D] as `encode` gives."""
        flat = Flat.of([view.tokens.shape[0] for view in views])
        rows = zip(*map(flat.take, self._survey(hidden, flat, views, temperatures, gumbels)), strict=True)
        return [Seen(Survey(*row), ()) for row in rows]

    def _survey(
        self,
        hidden: mx.array,
        flat: Flat,
        views: Sequence[View],
        temperatures: Sequence[mx.array],
        gumbels: Sequence[mx.array],
    ) -> Survey:
        vocab_size = self.config.vocab_size

        def handicaps(sources: Sequence[mx.array], first: int) -> mx.array:
            """Some columns of minus all rows' noise, [N, columns]."""
            rows = zip(views, sources, strict=True)
            return flat.join([view.handicaps(source, first, vocab_size, self.run) for view, source in rows])

        heat = [mx.broadcast_to(own, (width, 1)) for own, width in zip(temperatures, flat.widths, strict=True)]
        small = 4 * hidden.shape[0] * columns(vocab_size) < LEAST_BYTES
        return survey_vocabulary(
            hidden.astype(self.projection_dtype),
            self.embed_tokens,
            self.config.final_logit_softcapping,
            self.config.hidden_size**0.5,
            flat.join(heat),
            gumbels,
            handicaps,
            mx.depends if self.compiled or small else evaluated_after,
            self.run,
        )

    def logits_at(self, views: Sequence[View]) -> list[mx.array]:
        """Logits of each row's surveyed positions, float32 [F, V], softcapped: for few of them. Writes nothing."""
        flat = Flat.of([view.tokens.shape[0] for view in views], few_sizes=self.compiled)
        x, _ = self._decode(views, flat)
        x, flat = self._asked(x, flat, views)
        return [self.logits(row) for row in flat.take(x)]

    def denoise(self, canvas: mx.array, soft: mx.array | None, cache: PrefixCache) -> mx.array:
        """Logits float32 [L, V], softcapped, for the canvas int32 [L] that follows the cached prefix.

        soft [L, D] is the soft signal of the previous step, None at the first. Writes nothing; any L will do.
        """
        soft = self.no_signal(canvas.shape[0]) if soft is None else soft
        x, _ = self._decode([View(canvas, soft, cache.prefix())], Flat.of([canvas.shape[0]]))
        return self.logits(x)

    def no_signal(self, length: int) -> mx.array:
        """The soft signal of the first step of a canvas [L]: zeros [L, D]."""
        return mx.zeros((length, self.config.hidden_size), self.projection_dtype)

    def logits(self, x: mx.array) -> mx.array:
        """What comes out of the last layer, [..., D], to logits float32 [..., V], softcapped."""
        return self.unembed(self.norm(x))

    def unembed(self, hidden: mx.array) -> mx.array:
        """Hidden states after the final norm, [..., D], to logits float32 [..., V], softcapped."""
        logits = self._table().project(hidden.astype(self.projection_dtype))
        return softcapped(logits, self.config.final_logit_softcapping)

    def soft_embedding(self, logits: mx.array) -> mx.array:
        """The soft signal for the next step: softmax of processed logits [..., V] over the embeddings, [..., D]."""
        probabilities = mx.softmax(logits.astype(mx.float32), axis=-1).astype(self.projection_dtype)
        return self._table().mix(probabilities) * self.config.hidden_size**0.5

    def embed(self, tokens: mx.array) -> mx.array:
        """Token ids [N] to what goes into the first layer, [N, D]."""
        return self._table().take(tokens).astype(self.dtype) * self.config.hidden_size**0.5

    def _decode(self, views: Sequence[View], flat: Flat) -> tuple[mx.array, list[tuple[KeysValues, ...]]]:
        """All canvases through all layers: what comes out, [N, D], and each canvas's keys and values."""
        embedded = self.embed(flat.join([view.tokens for view in views]))
        soft = flat.join([view.soft for view in views])
        x = self.run(SelfConditioning.__call__, self.self_conditioning, embedded, soft)
        kept = []
        for index, (layer, layer_type) in enumerate(zip(self.layers, self.config.layer_types, strict=True)):
            behind = [(view.prefix.layers[index], view.prefix.seen.get(layer_type)) for view in views]
            old = [view.kept[index] if view.kept else None for view in views]
            x, canvases = layer.denoise(x, flat, views, behind, old, self.run)
            kept.append(canvases)
        return x, list(zip(*kept, strict=True))

    def _asked(self, x: mx.array, flat: Flat, views: Sequence[View]) -> tuple[mx.array, Flat]:
        """Of what comes out of the last layer, the surveyed positions: head and sampler run over those alone."""
        if all(view.asked is None for view in views):
            return x, flat
        wanted = [row if view.asked is None else row[view.asked] for row, view in zip(flat.take(x), views, strict=True)]
        flat = Flat.of([view.surveyed for view in views], few_sizes=self.compiled)
        return flat.join(wanted), flat

    def run(self, function: Callable[..., Any], module: nn.Module | None, *arguments: Any) -> Any:
        """Run a pure function of a module and arrays, through its trace where the model is compiled."""
        return (self._traces if self.compiled else plainly)(function, module, *arguments)

    def _table(self) -> Rows:
        return Rows.of(self.embed_tokens)


def _looked_at(passages: Sequence[Passage], flat: Flat) -> mx.array | None:
    """The places of the positions that somebody looks at, int32 [places]; None: of all, or of none of them."""
    if not any(passage.looked_at or passage.canvas is not None for passage in passages):
        return None
    places: list[int] = []
    start = 0
    for passage, count in zip(passages, flat.counts, strict=False):
        wanted = count if passage.looked_at is None else passage.looked_at
        places += range(start + count - wanted, start + count)
        start += count
    return mx.array([*places, *range(start, flat.total)], dtype=mx.int32)
