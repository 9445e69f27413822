"""Randomness of a batch whose rows have seeds of their own.

The engine's default shares one draw among the rows of a batch. Measured prompts must not share theirs, or their
answers would be right and wrong together and intervals too narrow; and a prompt must meet the same noise in any
company. So each row draws what a run of its own with its seed would. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import mlx.core as mx

from mlx_diffusion.engine.noise import KeyedNoise, Noise


def seed_of(seed: int, family: str, index: int) -> int:
    """The seed of one prompt: `generate` with it repeats the prompt's run alone."""
    mixed = blake2b(f"{seed} {family} {index}".encode(), digest_size=4).digest()
    return int.from_bytes(mixed, "big")


def noise_of(seeds: Sequence[int], vocab_size: int) -> Noise:
    """The noise of a batch; for a single row, the default's, which need not be in memory whole."""
    return KeyedNoise(seeds[0], vocab_size) if len(seeds) == 1 else RowNoise(seeds, vocab_size)


class RowNoise:
    """A `Noise` that draws row by row."""

    def __init__(self, seeds: Sequence[int], vocab_size: int) -> None:
        self._rows = [KeyedNoise(seed, vocab_size) for seed in seeds]

    def initial(self, block: int, shape: tuple[int, ...]) -> mx.array:
        return mx.concatenate([row.initial(block, (1, *shape[1:])) for row in self._rows])

    def gumbel(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        return mx.concatenate([row.gumbel(block, step, (1, *shape[1:])) for row in self._rows])

    def renoise(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        return mx.concatenate([row.renoise(block, step, (1, *shape[1:])) for row in self._rows])
