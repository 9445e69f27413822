"""The head and what the sampler asks of its logits, in one pass over the vocabulary.

At the real size one float32 array over a canvas and the vocabulary has 268 MB. Here a chunk of the embedding table
gives its logits, and from the same chunk come the running argmax, the sample, the entropy and (by online softmax,
Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867) the next soft embedding; no array of the vocabulary's
width exists. `survey_logits` is the slow twin. Knows nothing of layers, steps or what is done with the figures.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from . import sampler
from .noise import COLUMNS, gumbel_columns
from .quantization import QuantSpec


class Survey(NamedTuple):
    """What one step's processed logits say at each position."""

    argmax: mx.array  # int32 [B, L]
    sample: mx.array  # int32 [B, L]
    probability: mx.array  # float32 [B, L], of the sample
    entropy: mx.array  # float32 [B, L], in nats
    soft: mx.array  # [B, L, D], probabilities over the embeddings


def survey(
    hidden: mx.array, table: nn.Embedding, softcap: float, temperature: float | mx.array, gumbel: mx.array
) -> Survey:
    """The survey of logits = softcap(hidden @ tableᵀ) / temperature; hidden [B, L, D] comes from the final norm.

    The sample is argmax(logits + noise), the noise made of `gumbel` (see `gumbel_source`). Ties go to the first token,
    as in an argmax over all. Lazy, in one graph: each chunk waits for the one before, so that MLX holds few at a time.
    """
    shape = (*hidden.shape[:2], table.weight.shape[0])
    running: _Running | None = None
    for first in range(0, shape[-1], COLUMNS):
        if running is not None:
            hidden, gumbel = mx.depends([hidden, gumbel], list(running))
        rows = Rows.of(table, first, min(first + COLUMNS, shape[-1]))
        logits = softcapped(rows.project(hidden), softcap) / temperature
        chunk = _Running.of_chunk(logits, gumbel_columns(gumbel, first, shape), first, rows, hidden.dtype)
        running = chunk if running is None else running.merge(chunk)
    assert running is not None
    log_total = mx.log(running.total)
    return Survey(
        running.argmax.squeeze(-1),
        running.sample.squeeze(-1),
        mx.exp(running.sampled - running.best - log_total).squeeze(-1),
        (log_total - running.moment / running.total).squeeze(-1),
        (running.soft / running.total).astype(hidden.dtype),
    )


def survey_logits(logits: mx.array, table: nn.Embedding, gumbel: mx.array) -> Survey:
    """The same from processed logits and Gumbel noise that are there as a whole, both float32 [B, L, V]."""
    rows = Rows.of(table, 0, table.weight.shape[0])
    sample = sampler.sample(logits, gumbel)
    return Survey(
        mx.argmax(logits, axis=-1).astype(mx.int32),
        sample,
        sampler.probability(logits, sample),
        sampler.entropy(logits),
        rows.mix(mx.softmax(logits, axis=-1)),
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
    def of(cls, table: nn.Embedding, first: int, end: int) -> Rows:
        rows = slice(first, end)
        if not isinstance(table, nn.QuantizedEmbedding):
            return cls(table.weight[rows], None, None, None)
        biases = table.get("biases")
        return cls(
            table.weight[rows],
            table.scales[rows],
            None if biases is None else biases[rows],
            QuantSpec(table.group_size, table.bits, table.mode),
        )

    def project(self, hidden: mx.array) -> mx.array:
        """hidden [..., D] -> [..., rows]."""
        return hidden @ self.weight.T if self.format is None else self._times(hidden, self.format, transpose=True)

    def mix(self, weights: mx.array) -> mx.array:
        """weights [..., rows] -> [..., D]."""
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


class _Running(NamedTuple):
    """The figures of the columns so far, sums relative to the largest logit: all float32 [B, L, 1] but for `soft`."""

    best: mx.array
    argmax: mx.array  # int32
    noisiest: mx.array
    sample: mx.array  # int32
    sampled: mx.array  # the sample's logit
    total: mx.array  # sum of exp(x - best)
    moment: mx.array  # sum of exp(x - best) * (x - best)
    soft: mx.array  # float32 [B, L, D], sum of exp(x - best) * embedding

    @classmethod
    def of_chunk(cls, logits: mx.array, gumbel: mx.array, first: int, rows: Rows, dtype: mx.Dtype) -> _Running:
        noisy = logits + gumbel
        argmax, sample = (mx.argmax(scores, axis=-1, keepdims=True) for scores in (logits, noisy))
        best = mx.take_along_axis(logits, argmax, axis=-1)
        centred = logits - best
        weights = mx.exp(centred)
        return cls(
            best,
            argmax.astype(mx.int32) + first,
            mx.take_along_axis(noisy, sample, axis=-1),
            sample.astype(mx.int32) + first,
            mx.take_along_axis(logits, sample, axis=-1),
            weights.sum(axis=-1, keepdims=True),
            (weights * centred).sum(axis=-1, keepdims=True),
            rows.mix(weights.astype(dtype)).astype(mx.float32),
        )

    def merge(self, after: _Running) -> _Running:
        best = mx.maximum(self.best, after.best)
        noisier = after.noisiest > self.noisiest
        earlier, later = self._relative_to(best), after._relative_to(best)
        return _Running(
            best,
            mx.where(after.best > self.best, after.argmax, self.argmax),
            mx.maximum(self.noisiest, after.noisiest),
            mx.where(noisier, after.sample, self.sample),
            mx.where(noisier, after.sampled, self.sampled),
            *(left + right for left, right in zip(earlier, later, strict=True)),
        )

    def _relative_to(self, best: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        shift = self.best - best
        scale = mx.exp(shift)
        return scale * self.total, scale * (self.moment + shift * self.total), scale * self.soft
