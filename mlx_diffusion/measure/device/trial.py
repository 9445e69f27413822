"""A trial: one computation on the device in one type and width, held against float64, and timed.

Knows nothing of what is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

LEAST_SECONDS = 0.02  # a measurement repeats its computation until it has taken this long, if there is time
REPEATS = 3

WIDTHS = (16, 32, 64, 128, 256)  # positions of a pass

Answer = Callable[[], mx.array]  # computes anew, lazily
Judge = Callable[[mx.array], "Distance"]  # an answer against its float64 twin


@dataclass(frozen=True)
class Distance:
    """How far an answer is from its twin in float64, over the places that were compared."""

    error: float  # root mean square, relative to the twin's; infinite where the answer is no number
    worst: float  # the largest, relative to the twin's largest
    note: str = ""


@dataclass(frozen=True)
class Extent:
    """How much of a shape is worth computing here."""

    most_flops: float  # of one run; infinite where nothing is cut

    def of(self, count: int, flops_each: float, multiple: int) -> int:
        """How many of so many columns, heads or tokens to compute, a multiple where not all."""
        most = self.most_flops / flops_each
        return count if most >= count else max(multiple, int(most) // multiple * multiple)


@dataclass(frozen=True)
class TrialSetup:
    """What is tried: a part of the model, by which kernel, in which type, over how many positions."""

    part: str
    kernel: str
    dtype: str
    width: int


@dataclass(frozen=True)
class KernelTrial:
    """What came of it. Where MLX has no such kernel here, or time was up, `problem` says so and the rest is None."""

    setup: TrialSetup
    distance: Distance | None = None
    seconds: float | None = None
    flops: int = 0  # of one run
    cut: str = ""  # what of the real shape was left out
    problem: str = ""

    @property
    def rate(self) -> float | None:
        """Operations a second."""
        return None if not self.seconds else self.flops / self.seconds

    @property
    def seconds_each(self) -> float | None:
        """Seconds an operation: comparable where shapes were cut differently."""
        return None if not self.seconds else self.seconds / self.flops


def tried(setup: TrialSetup, answer: Answer, judge: Judge, flops: int, allowed: float, cut: str = "") -> KernelTrial:
    """Run once and judge, then again for the time; about `allowed` seconds in all, and one run at least."""
    try:
        made = answer()
        mx.eval(made)
        distance = judge(made)
        started = time.perf_counter()
        mx.eval(answer())
        best = time.perf_counter() - started
    except (ValueError, RuntimeError) as error:  # MLX's ways to say that it has no such kernel
        return KernelTrial(setup, cut=cut, problem=str(error).strip().split("\n")[0])
    left = allowed - 2 * best
    for _ in range(REPEATS):
        times = max(1, round(min(LEAST_SECONDS, left) / best))
        if times * best > left:
            break
        started = time.perf_counter()
        for _ in range(times):
            mx.eval(answer())
        taken = time.perf_counter() - started
        left, best = left - taken, min(best, taken / times)
    return KernelTrial(setup, distance, best, flops, cut)


def distance(made: mx.array, twin: np.ndarray, note: str = "") -> Distance:
    """The distance of an answer's places from their twin, float64 of the same shape."""
    found = np.array(made.astype(mx.float32)).astype(np.float64)
    if not np.isfinite(found).all():
        return Distance(float("inf"), float("inf"), note)
    apart = found - twin
    return Distance(
        float(np.sqrt((apart**2).mean() / (twin**2).mean())), float(np.abs(apart).max() / np.abs(twin).max()), note
    )


class KernelTrials(Protocol):
    """The trials of one part of the model; its arrays go when it goes."""

    def setups(self) -> list[TrialSetup]:
        """What is tried, in order."""
        ...

    def flops(self, setup: TrialSetup) -> int:
        """Operations of one run."""
        ...

    def run(self, setup: TrialSetup, allowed: float) -> KernelTrial:
        """Make one of them in about `allowed` seconds."""
        ...
