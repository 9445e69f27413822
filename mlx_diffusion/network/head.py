"""The head and what the sampler asks of its logits, in one pass over the vocabulary.

At the real size one float32 array over a canvas and the vocabulary has 268 MB. Here a chunk of the embedding table
gives its logits, and from the same chunk come the running argmax, the sample, the entropy and (by online softmax,
Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867) the next soft embedding; no array of the vocabulary's
width exists. `survey_logits` is the slow twin. Knows nothing of layers, steps or what is done with the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import unpacked
from mlx_diffusion.device import After, over_cores
from mlx_diffusion.network import sampling
from mlx_diffusion.network.sampling import columns
from mlx_diffusion.network.traces import Run, plainly


class Survey(NamedTuple):
    """What one step's processed logits say at each position."""

    argmax: mx.array  # int32 [N]
    sample: mx.array  # int32 [N]
    probability: mx.array  # float32 [N], of the sample
    entropy: mx.array  # float32 [N], in nats
    soft: mx.array  # [N, D], probabilities over the embeddings
    peak: mx.array  # float32 [N], the probability of the argmax


def survey_vocabulary(
    hidden: mx.array,
    table: nn.Embedding,
    softcap: float,
    embedding_scale: float,
    temperature: float | mx.array,
    sources: Sequence[mx.array],
    handicaps: Callable[[Sequence[mx.array], int], mx.array],
    after: After = mx.depends,
    run: Run = plainly,
) -> Survey:
    """The survey of logits = softcap(hidden @ tableᵀ) / temperature; hidden [N, D] comes from the final norm.

    temperature is one number, or float32 [N, 1]. The sample is argmax(logits + noise); `handicaps(sources, first)`
    gives the `columns(V)` columns from `first` of minus the noise, float32 [N, columns]. Ties go to the first token, as
    in an argmax over all. The soft signal is of embeddings times their scale. Each chunk of the vocabulary waits for
    the one before, so that MLX holds few at a time: lazily, in one graph, where `after` is `mx.depends`.
    """
    vocab_size = table.weight.shape[0]
    heat = temperature if isinstance(temperature, mx.array) else mx.full((hidden.shape[0], 1), temperature)
    chunks: list[_Chunk] = []
    width = columns(vocab_size)
    for first, rows in zip(range(0, vocab_size, width), Rows.of(table).split(width), strict=True):
        if chunks:
            hidden, *sources = after([hidden, *sources], list(chunks[-1]))
        start = mx.array(first, dtype=mx.int32)
        found = run(_chunk, None, hidden, rows.plain(), softcap, heat, handicaps(sources, first), start)
        chunks.append(_Chunk(*found))
    return Survey(*run(_joined, None, [tuple(chunk) for chunk in chunks], hidden, embedding_scale))


def survey_logits(logits: mx.array, table: nn.Embedding, gumbel: mx.array) -> Survey:
    """The same from processed logits and Gumbel noise that are there as a whole, both float32 [..., V]."""
    sample, argmax = sampling.sample(logits, gumbel), mx.argmax(logits, axis=-1).astype(mx.int32)
    return Survey(
        argmax,
        sample,
        sampling.probability(logits, sample),
        sampling.entropy(logits),
        Rows.of(table).mix(mx.softmax(logits, axis=-1)),
        sampling.probability(logits, argmax),
    )


def softcapped(logits: mx.array, softcap: float) -> mx.array:
    """Logits in float32, smoothly held within ± softcap."""
    return mx.tanh(logits.astype(mx.float32) / softcap) * softcap


class Rows(NamedTuple):
    """Rows of the embedding table, quantised or not."""

    weight: mx.array
    scales: mx.array | None
    biases: mx.array | None
    format: QuantSpec | None

    @classmethod
    def of(cls, table: nn.Embedding) -> Rows:
        """All of them."""
        if not isinstance(table, nn.QuantizedEmbedding):
            return cls(table.weight, None, None, None)
        spec = QuantSpec(table.group_size, table.bits, table.mode)
        return cls(table.weight, table.scales, table.get("biases"), spec)

    @classmethod
    def of_plain(cls, plain: tuple[Any, ...]) -> Rows:
        """What `plain` was made of."""
        weight, scales, biases, spec = plain
        return cls(weight, scales, biases, None if spec is None else QuantSpec(*spec))

    def plain(self) -> tuple[Any, ...]:
        """The arrays, and how they are quantised, as a trace takes them."""
        spec = self.format
        return self.weight, self.scales, self.biases, None if spec is None else (spec.group_size, spec.bits, spec.mode)

    def split(self, size: int) -> list[Rows]:
        """The same in runs of `size` rows, the last one shorter; nothing is copied."""
        count = self.weight.shape[0]
        if count <= size:
            return [self]
        cuts = list(range(size, count, size))
        weights = mx.split(self.weight, cuts)
        scales, biases = (
            [None] * len(weights) if array is None else mx.split(array, cuts) for array in (self.scales, self.biases)
        )
        return [Rows(*parts, self.format) for parts in zip(weights, scales, biases, strict=True)]

    def take(self, places: mx.array) -> mx.array:
        """The rows at some places, int [N] -> [N, D]."""
        if self.format is None or self.scales is None:
            return self.weight[places]
        biases = None if self.biases is None else self.biases[places]
        return unpacked(self.weight[places], self.scales[places], biases, self.format, None)

    def project(self, hidden: mx.array) -> mx.array:
        """hidden [..., D] -> [..., rows]."""
        return over_cores(self._project, hidden.size * self.weight.shape[0], hidden, axis=-2)

    def mix(self, weights: mx.array) -> mx.array:
        """weights [..., rows] -> [..., D]."""
        return over_cores(self._mix, weights.size * self._width(), weights, axis=-2)

    def _width(self) -> int:
        """The D of an embedding."""
        if self.format is None or self.scales is None:
            return self.weight.shape[-1]
        return self.scales.shape[-1] * self.format.group_size

    def _project(self, hidden: mx.array) -> mx.array:
        return hidden @ self.weight.T if self.format is None else self._times(hidden, self.format, transpose=True)

    def _mix(self, weights: mx.array) -> mx.array:
        return weights @ self.weight if self.format is None else self._times(weights, self.format, transpose=False)

    def _times(self, x: mx.array, spec: QuantSpec, transpose: bool) -> mx.array:
        assert self.scales is not None
        return mx.quantized_matmul(
            x,
            self.weight,
            self.scales,
            self.biases,
            transpose,
            group_size=spec.group_size,
            bits=spec.bits,
            mode=spec.mode,
        )


class _Chunk(NamedTuple):
    """What some columns of the logits say, sums relative to their largest: all float32 [N, 1] but for `soft`."""

    best: mx.array
    argmax: mx.array  # int32
    noisiest: mx.array
    sample: mx.array  # int32
    sampled: mx.array  # the sample's logit
    total: mx.array  # sum of exp(x - best)
    moment: mx.array  # sum of exp(x - best) * (x - best)
    soft: mx.array  # float32 [N, D], sum of exp(x - best) * embedding


def _chunk(
    hidden: mx.array,
    table: tuple[Any, ...],
    softcap: float,
    temperature: mx.array,
    handicaps: mx.array,
    first: mx.array,
) -> _Chunk:
    """What the columns from `first` say: hidden [N, D], table as `Rows.plain` gives it, temperature [N, 1],
    handicaps [N, columns]."""
    rows = Rows.of_plain(table)
    said = partial(_said, rows, softcap, first)
    return over_cores(said, 2 * hidden.size * rows.weight.shape[0], hidden, temperature, handicaps)


def _said(
    rows: Rows, softcap: float, first: mx.array, hidden: mx.array, temperature: mx.array, handicaps: mx.array
) -> _Chunk:
    """The same of some of the positions."""
    logits = softcapped(rows.project(hidden), softcap) / temperature
    noisy = logits - handicaps
    argmax, sample = (mx.argmax(scores, axis=-1, keepdims=True) for scores in (logits, noisy))
    best = mx.take_along_axis(logits, argmax, axis=-1)
    weights = mx.exp(logits - best)
    return _Chunk(
        best,
        argmax.astype(mx.int32) + first,
        mx.take_along_axis(noisy, sample, axis=-1),
        sample.astype(mx.int32) + first,
        mx.take_along_axis(logits, sample, axis=-1),
        weights.sum(axis=-1, keepdims=True),
        (weights * (logits - best)).sum(axis=-1, keepdims=True),  # subtracted anew: no array of it has to be kept
        rows.mix(weights.astype(hidden.dtype)).astype(mx.float32),
    )


def _joined(chunks: list[tuple[mx.array, ...]], hidden: mx.array, embedding_scale: float) -> Survey:
    """What all columns say: the winner of the winners, and sums relative to the largest logit of all."""
    *columns, softs = zip(*chunks, strict=True)
    best, argmax, noisiest, sample, sampled, total, moment = (
        mx.concatenate(list(column), axis=-1) for column in columns
    )
    likeliest, chosen = (mx.argmax(scores, axis=-1, keepdims=True) for scores in (best, noisiest))
    highest = mx.take_along_axis(best, likeliest, axis=-1)
    shift = best - highest  # [N, chunks]
    scale = mx.exp(shift)
    totals = (scale * total).sum(axis=-1, keepdims=True)
    moments = (scale * (moment + shift * total)).sum(axis=-1, keepdims=True)
    soft = reduce(mx.add, map(mx.multiply, mx.split(scale, len(chunks), axis=-1), softs))
    log_total = mx.log(totals)
    return Survey(
        mx.take_along_axis(argmax, likeliest, axis=-1).squeeze(-1),
        mx.take_along_axis(sample, chosen, axis=-1).squeeze(-1),
        mx.exp(mx.take_along_axis(sampled, chosen, axis=-1) - highest - log_total).squeeze(-1),
        (log_total - moments / totals).squeeze(-1),
        (soft / totals).astype(hidden.dtype) * embedding_scale,
        (1 / totals).squeeze(-1),
    )
