"""The randomness of a run, as one object that can be replaced by a tape.

Knows nothing of models, logits or rows: it is told which draw of the run is wanted and of what shape, and the same
question always gets the same answer. Replay a recorded run by passing any object with the three methods of `Noise`.
"""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_diffusion.network.sampling import columns, gumbel_columns

INITIAL, GUMBEL, RENOISE = range(3)


class Noise(Protocol):
    """Where a run's random numbers come from. `step` counts 0, 1, … within a block, `block` from 0 within a run."""

    def initial(self, block: int, shape: tuple[int, ...]) -> mx.array:
        """The block's first canvas: int32 [B, L], uniform over the vocabulary."""
        ...

    def gumbel(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        """Standard Gumbel noise, float32 [B, L, V]: the sample is argmax(logits + gumbel)."""
        ...

    def renoise(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        """Fresh tokens for positions that were not accepted: int32 [B, L], uniform over the vocabulary."""
        ...


@dataclass(frozen=True)
class KeyedNoise:
    """The default: every draw has its own key, made from (seed, purpose, block, step), and no global state is touched.

    One row is drawn and shared by all rows of a batch, so a prompt meets the same noise alone and in company.
    """

    seed: int
    vocab_size: int

    def initial(self, block: int, shape: tuple[int, ...]) -> mx.array:
        return self._tokens(self._key(INITIAL, block, 0), shape)

    def gumbel(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        key, firsts = self.gumbel_key(block, step), range(0, shape[-1], columns(shape[-1]))
        return mx.concatenate([gumbel_columns(key, first, shape) for first in firsts], axis=-1)

    def gumbel_key(self, block: int, step: int) -> mx.array:
        """The key, uint32 [2], that the step's Gumbel noise is drawn with."""
        return self._key(GUMBEL, block, step)

    def renoise(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        return self._tokens(self._key(RENOISE, block, step), shape)

    def _tokens(self, key: mx.array, shape: tuple[int, ...]) -> mx.array:
        row = mx.random.randint(0, self.vocab_size, (1, *shape[1:]), dtype=mx.int32, key=key)
        return mx.broadcast_to(row, shape)

    def _key(self, purpose: int, block: int, step: int) -> mx.array:
        mixed = np.random.SeedSequence((self.seed, purpose, block, step)).generate_state(1, np.uint64)
        return mx.random.key(int(mixed[0]))


def gumbel_source(noise: Noise, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
    """What `gumbel_columns` makes a step's noise of: a key, uint32 [2], or the noise itself, float32 [B, L, V]."""
    return noise.gumbel_key(block, step) if isinstance(noise, KeyedNoise) else noise.gumbel(block, step, shape)
