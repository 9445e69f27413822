"""The bound on shuffles after a single denoising step, where positions depend on each other, and what was reached.

After one step every position has its own distribution and nothing ties them. Where a model has learned that every order
of n items is equally likely, each position gives each item 1/n, and independent draws make a valid shuffle with
probability n!/nⁿ: no sampler can do better without a second step. A model only reaches more if it prefers some orders
to others. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mlx_diffusion.measure.answers.statistics import binomial_at_most, wilson

UNLIKELY = 0.01
LONGEST = 1000  # items of a shuffle


@dataclass(frozen=True)
class FirstStep:
    """One shuffle of `length` items after a single step: a draw at every position, and the most likely tokens."""

    length: int
    draw: bool  # whether the draw is a valid shuffle
    argmax: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_first_step(step: FirstStep) -> None:
    """Refuse what was read of a step by a ValueError, unless it is of the right kinds."""
    marks = isinstance(step.draw, bool) and isinstance(step.argmax, bool)
    if not marks or type(step.length) is not int or not 1 <= step.length <= LONGEST:
        raise ValueError("a first step of the wrong kind")


@dataclass(frozen=True)
class OneStepBound:
    """The bound n!/nⁿ for shuffles of one length, and how often a single step made a valid one."""

    length: int
    prompts: int
    draws: int  # valid ones
    low: float  # of the 95 % interval of their share
    high: float
    argmaxes: int
    bound: float
    chance: float  # of this many valid draws or more, if each were valid with the bound's probability

    @property
    def holds(self) -> bool:
        """Whether the measured share may lie within the bound."""
        return self.chance >= UNLIKELY


def one_step_bounds(steps: Iterable[FirstStep]) -> list[OneStepBound]:
    """One entry for each length, shortest first."""
    by_length: dict[int, list[FirstStep]] = {}
    for step in steps:
        by_length.setdefault(step.length, []).append(step)
    found = []
    for length, own in sorted(by_length.items()):
        draws = sum(step.draw for step in own)
        argmaxes = sum(step.argmax for step in own)
        bound = math.factorial(length) / length**length
        chance = 1 - binomial_at_most(draws - 1, len(own), bound)
        found.append(OneStepBound(length, len(own), draws, *wilson(draws, len(own)), argmaxes, bound, chance))
    return found
