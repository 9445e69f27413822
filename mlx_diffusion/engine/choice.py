"""The encoder's choice of tokens: from logits to one token a position, by temperature and filters, and its likelihood.

Pure and lazy. The names and meanings of the options are mlx-lm's (`mlx_lm.sample_utils`), and so is the order: bias and
penalty change the logits, the filters choose among their log-probabilities, temperature and noise come last. No
position's choice depends on how many others are chosen with it. Knows nothing of models, drafts or text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_diffusion.options import Settings


class Choice(NamedTuple):
    """What was chosen at A positions."""

    tokens: mx.array  # int32 [A]
    logprobs: mx.array  # float32 [A], of the chosen tokens, before temperature and filters
    top_tokens: mx.array  # int32 [A, n], the n most likely ones, the first one first
    top_logprobs: mx.array  # float32 [A, n]
    is_nan: mx.array  # bool [], some logit is


def choose(
    logits: mx.array,
    settings: Settings,
    noise: mx.array | None,
    before: Sequence[Sequence[int]] | None,
    allowed: mx.array | None = None,
) -> Choice:
    """One token a position from logits float32 [A, V].

    noise: float32 [A, V], Gumbel; None at temperature 0. before: the tokens before each position, the last
    `repetition_context_size` of which are penalised; None without a penalty. allowed: the tokens that may be chosen,
    as bits, uint32 [A, V / 32]: all others have no probability; None: all may.
    """
    processed = _processed(logits, settings, before)
    if allowed is not None:
        processed = mx.where(unpacked(allowed, logits.shape[-1]), processed, -mx.inf)
    logprobs = _normalised(processed)
    if noise is None:
        tokens = mx.argmax(logprobs, axis=-1)
    else:
        tokens = mx.argmax(filtered(logprobs, settings) * (1 / settings.temperature) + noise, axis=-1)
    if settings.logprobs:
        top = mx.argsort(-logprobs, axis=-1)[:, : settings.logprobs]
    else:
        top = mx.zeros((logits.shape[0], 0), dtype=mx.int32)
    return Choice(
        tokens.astype(mx.int32),
        mx.take_along_axis(logprobs, tokens[:, None], axis=-1).squeeze(-1),
        top.astype(mx.int32),
        mx.take_along_axis(logprobs, top, axis=-1),
        mx.isnan(logits).any(),
    )


def unpacked(bits: mx.array, count: int) -> mx.array:
    """uint32 [A, words], whose first bits come first, as bool [A, count]."""
    each = (bits[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return each.reshape(bits.shape[0], -1)[:, :count].astype(mx.bool_)


def filtered(logprobs: mx.array, settings: Settings) -> mx.array:
    """Log-probabilities float32 [A, V], -inf where a token may not be chosen."""
    if settings.top_p < 1:
        logprobs = _of_top_p(logprobs, settings.top_p)
    if settings.min_p > 0:
        least = logprobs.max(axis=-1, keepdims=True) + math.log(settings.min_p)
        logprobs = mx.where(logprobs < least, -mx.inf, logprobs)
    if 0 < settings.top_k < logprobs.shape[-1]:
        others = mx.argpartition(-logprobs, kth=settings.top_k - 1, axis=-1)[:, settings.top_k :]
        logprobs = mx.put_along_axis(logprobs, others, mx.array(-mx.inf, logprobs.dtype), axis=-1)
    return logprobs


def _of_top_p(logprobs: mx.array, top_p: float) -> mx.array:
    """The most likely tokens, up to the one with which their probabilities sum to `top_p` of all."""
    ascending = mx.sort(logprobs, axis=-1)
    probabilities = mx.exp(ascending)
    above = mx.cumsum(probabilities, axis=-1, reverse=True, inclusive=False)
    total = above[:, :1] + probabilities[:, :1]
    dropped = (above >= top_p * total).sum(axis=-1, keepdims=True)
    return mx.where(logprobs < mx.take_along_axis(ascending, dropped, axis=-1), -mx.inf, logprobs)


def _processed(logits: mx.array, settings: Settings, before: Sequence[Sequence[int]] | None) -> mx.array:
    if settings.logit_bias:
        tokens, biases = zip(*settings.logit_bias, strict=True)
        logits = logits.at[:, mx.array(tokens)].add(mx.array(biases, dtype=mx.float32))
    if before is None:
        return logits
    penalty, size = settings.repetition_penalty, settings.repetition_context_size
    return mx.concatenate(
        [
            _penalised(logits[row : row + 1], mx.array(sorted(set(tokens[-size:])), dtype=mx.int32), penalty)
            for row, tokens in enumerate(before)
        ]
    )


def _penalised(logits: mx.array, tokens: mx.array, penalty: float) -> mx.array:
    """logits [1, V], those of some tokens made less likely: CTRL's penalty, https://arxiv.org/abs/1909.05858."""
    old = mx.take(logits, tokens, axis=-1)
    new = mx.where(old < 0, old * penalty, old / penalty)
    return mx.put_along_axis(logits, tokens[None], new, axis=-1)


def _normalised(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
