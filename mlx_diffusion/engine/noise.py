"""The randomness of a run, as one object that can be replaced by a tape.

Knows nothing of models or logits: it is told which draw of the run is wanted and of what shape, and the same question
always gets the same answer. Replay a recorded run by passing any object with the three methods of `Noise`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_diffusion.network.sampling import columns, gumbel_columns

INITIAL, GUMBEL, RENOISE = range(3)
REMEMBERED = 8  # draws of a tape that rows share: rows of one age ask for the same ones


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


class Draws(Protocol):
    """The randomness of one row, canvas by canvas: what the engine asks for."""

    def initial(self, block: int, length: int) -> mx.array:
        """The first canvas: int32 [L]."""
        ...

    def gumbel(self, block: int, step: int, length: int) -> mx.array:
        """What a step's Gumbel noise is made of: a key, uint32 [2], or the noise itself, float32 [L, V]."""
        ...

    def renoise(self, block: int, step: int, length: int) -> mx.array:
        """Fresh tokens: int32 [L]."""
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
        *rows, length, vocab_size = shape
        key, firsts = self.gumbel_key(block, step), range(0, vocab_size, columns(vocab_size))
        row = mx.concatenate([gumbel_columns(key, first, (length, vocab_size)) for first in firsts], axis=-1)
        return mx.broadcast_to(row, shape) if rows else row

    def gumbel_key(self, block: int, step: int) -> mx.array:
        """The key, uint32 [2], that the step's Gumbel noise is drawn with."""
        return self._key(GUMBEL, block, step)

    def renoise(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        return self._tokens(self._key(RENOISE, block, step), shape)

    def _tokens(self, key: mx.array, shape: tuple[int, ...]) -> mx.array:
        row = mx.random.randint(0, self.vocab_size, shape[-1:], dtype=mx.int32, key=key)
        return mx.broadcast_to(row, shape)

    def _key(self, purpose: int, block: int, step: int) -> mx.array:
        mixed = np.random.SeedSequence((self.seed, purpose, block, step)).generate_state(1, np.uint64)
        return mx.random.key(int(mixed[0]))


@dataclass(frozen=True)
class SeededDraws:
    """A row's own seed. Gumbel noise goes to the head as its key: it need not be in memory as a whole."""

    noise: KeyedNoise

    @classmethod
    def of(cls, seed: int, vocab_size: int) -> SeededDraws:
        return cls(KeyedNoise(seed, vocab_size))

    def initial(self, block: int, length: int) -> mx.array:
        return self.noise.initial(block, (length,))

    def gumbel(self, block: int, step: int, length: int) -> mx.array:
        return self.noise.gumbel_key(block, step)

    def renoise(self, block: int, step: int, length: int) -> mx.array:
        return self.noise.renoise(block, step, (length,))


@dataclass(frozen=True)
class Tape:
    """A `Noise` for several rows, asked once for what they share: its last few draws are remembered."""

    noise: Noise
    rows: int
    vocab_size: int
    _drawn: dict[tuple[object, ...], mx.array] = field(default_factory=dict)

    def draw(self, method: Callable[..., mx.array], place: tuple[int, ...], shape: tuple[int, ...]) -> mx.array:
        """What a method of the noise gives for a block (and step): [rows, *shape]."""
        if self.rows == 1:  # nobody to share with: a step's noise has 268 MB at the real size
            return method(*place, (1, *shape))
        key = (method.__name__, place, shape)
        if key not in self._drawn:
            while len(self._drawn) >= REMEMBERED:
                self._drawn.pop(next(iter(self._drawn)))
            self._drawn[key] = method(*place, (self.rows, *shape))
        return self._drawn[key]


@dataclass(frozen=True)
class TapedDraws:
    """One row of a tape."""

    tape: Tape
    row: int

    def initial(self, block: int, length: int) -> mx.array:
        return self.tape.draw(self.tape.noise.initial, (block,), (length,))[self.row]

    def gumbel(self, block: int, step: int, length: int) -> mx.array:
        return self.tape.draw(self.tape.noise.gumbel, (block, step), (length, self.tape.vocab_size))[self.row]

    def renoise(self, block: int, step: int, length: int) -> mx.array:
        return self.tape.draw(self.tape.noise.renoise, (block, step), (length,))[self.row]


class PositionNoise:
    """The Gumbel noise with which the tokens of a text are chosen, each by the noise of its position.

    That of a position is what a block of its number, of one token, draws at its first step. It depends on nothing else,
    so a token is chosen with the same noise however many are chosen with it.
    """

    def __init__(self, draws: Draws, vocab_size: int) -> None:
        self._draws, self._vocab_size = draws, vocab_size
        self._first, self._rows = 0, mx.zeros((0, vocab_size))  # what was drawn last

    def at(self, first: int, count: int) -> mx.array:
        """The noise of `count` positions, float32 [count, V]."""
        start = first - self._first
        if start < 0 or start + count > self._rows.shape[0]:
            self._first, self._rows, start = first, self._draw(range(first, first + count)), 0
        return self._rows[start : start + count]

    def _draw(self, positions: range) -> mx.array:
        sources = [self._draws.gumbel(position, 0, 1) for position in positions]
        if sources[0].dtype != mx.uint32:
            return mx.concatenate(sources)
        keys = mx.stack(sources)

        def row(key: mx.array) -> mx.array:
            firsts = range(0, self._vocab_size, columns(self._vocab_size))
            return mx.concatenate([gumbel_columns(key, first, (1, self._vocab_size)) for first in firsts], axis=-1)

        return mx.vmap(row)(keys).squeeze(1)
