"""Which tokens a denoising step proposes, and which of them it keeps.

Pure functions from arrays to arrays. Knows nothing of models, blocks, seeds or stopping. The reference rule is that of
Transformers' `EntropyBoundSampler`, from Ben-Hamu et al. 2025 (https://arxiv.org/abs/2505.24857).
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

# (entropies in nats, probabilities of the proposed tokens), float32 [B, L] both -> the positions to keep, bool [B, L]
Acceptance = Callable[[mx.array, mx.array], mx.array]


def temperature(step: int, steps: int, t_min: float, t_max: float) -> float:
    """The temperature of denoising step `step` (0 … steps − 1): linear from t_max towards t_min.

    Computed in float32, as the reference does, so that logits divided by it agree to the last bit.
    """
    remaining = np.float32(steps - step) / np.float32(steps)
    return float(np.float32(t_min) + np.float32(t_max - t_min) * remaining)


@dataclass(frozen=True)
class EntropyBound:
    """The reference's acceptance.

    In ascending order of entropy, a position is kept while the entropies *before* it sum to at most `bound` nats; so
    the most certain one is always kept, and the mutual information of all that are kept stays below the bound.
    """

    bound: float

    def __call__(self, entropies: mx.array, probabilities: mx.array) -> mx.array:
        order = mx.argsort(entropies, axis=-1)
        ascending = mx.take_along_axis(entropies, order, axis=-1)
        keep = mx.cumsum(ascending, axis=-1) - ascending <= self.bound
        return mx.take_along_axis(keep, mx.argsort(order, axis=-1), axis=-1)


@dataclass(frozen=True)
class Confidence:
    """Keeps the tokens whose own probability is at least `threshold`, and always the most probable one.

    The rule that other implementations default to, decided anew at every step; they also never take a kept token back.
    """

    threshold: float

    def __call__(self, entropies: mx.array, probabilities: mx.array) -> mx.array:
        best = mx.argmax(probabilities, axis=-1, keepdims=True)
        return (probabilities >= self.threshold) | (mx.arange(probabilities.shape[-1]) == best)
