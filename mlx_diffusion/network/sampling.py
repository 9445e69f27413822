"""Entropy and probability, read off logits, and tokens drawn from them by the Gumbel trick.

Pure functions from arrays to arrays, over a vocabulary that is there as a whole, or noise of some of its columns. Knows
nothing of where logits or keys come from.
"""

import mlx.core as mx
import numpy as np

from mlx_diffusion.network.traces import Run, plainly

LOWEST = float(np.finfo(np.float32).min)
VOCABULARY_CHUNKS = 4  # of noise and logits: at the real size 67 MB of float32 each, for a canvas of 256


def entropy(logits: mx.array) -> mx.array:
    """Entropy in nats of each position's distribution: float32 [B, L, V] -> float32 [B, L]."""
    log_p = mx.maximum(logits - mx.logsumexp(logits, axis=-1, keepdims=True), LOWEST)  # -inf would give 0 * inf
    return -(mx.exp(log_p) * log_p).sum(axis=-1)


def probability(logits: mx.array, tokens: mx.array) -> mx.array:
    """What softmax(logits) gives each position's token: float32 [B, L, V], int32 [B, L] -> float32 [B, L]."""
    chosen = mx.take_along_axis(logits, tokens[..., None], axis=-1).squeeze(-1)
    return mx.exp(chosen - mx.logsumexp(logits, axis=-1))


def sample(logits: mx.array, gumbel: mx.array) -> mx.array:
    """One token a position, drawn from softmax(logits) by the Gumbel trick: [B, L, V] twice -> int32 [B, L]."""
    return mx.argmax(logits + gumbel, axis=-1).astype(mx.int32)


def columns(vocab_size: int) -> int:
    """How many columns of logits or noise are made at once, the last time perhaps fewer."""
    return -(-vocab_size // VOCABULARY_CHUNKS)


def gumbel_columns(source: mx.array, first: int, shape: tuple[int, int], run: Run = plainly) -> mx.array:
    """The `columns(V)` columns from `first`, a multiple of their number, of Gumbel noise of shape [L, V].

    source: the noise itself, float32 [L, V], or a key, uint32 [2], which stands for it.
    """
    if source.dtype == mx.uint32:
        return -handicaps(source, first, shape, run)
    return source[:, first : first + min(columns(shape[1]), shape[1] - first)]


def handicaps(source: mx.array, first: int, shape: tuple[int, int], run: Run = plainly) -> mx.array:
    """Minus the same noise: what is taken off logits, which leaves out that it is negated to be added."""
    if source.dtype != mx.uint32:
        return -gumbel_columns(source, first, shape)
    most = columns(shape[1])
    chunk, count = mx.array([0, first // most], dtype=mx.uint32), min(most, shape[1] - first)
    drawn: mx.array = run(_drawn, None, source, chunk, shape[0], count)
    return drawn


def _drawn(key: mx.array, chunk: mx.array, length: int, count: int) -> mx.array:
    """Minus what `mx.random.gumbel` draws, to the bit."""
    return mx.log(-mx.log(mx.random.uniform(shape=(length, count), dtype=mx.float32, key=key + chunk)))
