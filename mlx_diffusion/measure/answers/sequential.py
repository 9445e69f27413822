"""A test of a mean loss that may stop at any time: whether it is surely below a bound, or surely above.

Each pair of answers loses 1, 0 or -1. Against "the mean loss is at least the bound" a gambler bets a fixed share of his
wealth at each pair; if that were so, his wealth would not grow on average, and by Ville's inequality it would reach
1 / level with a probability of at most `level`, however often one looks (Ville 1939; Waudby-Smith and Ramdas 2024,
https://arxiv.org/abs/2010.09686). Several gamblers share the first stake. With fixed shares the wealth depends on the
counts alone. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.05  # of each side
SHARES = {0.98: 0.4, 0.5: 0.2, 0.25: 0.2, 0.1: 0.1, 0.03: 0.1}  # of the largest bet -> share of the first stake
PRECISION = 1e-4


@dataclass(frozen=True)
class Pairs:
    """Answers to the same prompts, two to each: how many only the second has right, and only the first."""

    count: int
    gained: int
    lost: int

    @property
    def loss(self) -> float:
        """The mean loss."""
        return (self.lost - self.gained) / self.count

    def is_below(self, bound: float, level: float = LEVEL) -> bool:
        """Whether the mean loss is surely below the bound."""
        return self._against(bound) >= -math.log(level)

    def is_above(self, bound: float, level: float = LEVEL) -> bool:
        """Whether the mean loss is surely above the bound."""
        return Pairs(self.count, self.lost, self.gained)._against(-bound) >= -math.log(level)

    def is_below_at_last(self, bound: float) -> bool:
        """Whether an ordinary test at the last look, whose count is settled beforehand, finds the loss below the bound.

        The upper end of Agresti and Min's interval for matched pairs (2005, https://doi.org/10.1002/sim.1781).
        """
        count, gained, lost = self.count + 2, self.gained + 0.5, self.lost + 0.5
        loss = (lost - gained) / count
        deviation = math.sqrt((gained + lost) / count - loss * loss)
        return loss + NormalDist().inv_cdf(1 - LEVEL) * deviation / math.sqrt(count) < bound

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The bounds that the mean loss is neither surely below nor surely above: it holds at all times."""
        high = _first(lambda bound: self.is_below(bound, level), self.loss, 1.0)
        low = -_first(lambda bound: self.is_above(-bound, level), -self.loss, 1.0)
        return low, high

    def _against(self, bound: float) -> float:
        """The logarithm of what the bets against "at least the bound" have made of a stake of 1."""
        if bound >= 1:
            return math.inf
        same = self.count - self.gained - self.lost
        logs = []
        for share, stake in SHARES.items():
            bet = share / (1 - bound)
            wealth = self.lost * math.log1p(bet * (bound - 1)) + same * math.log1p(bet * bound)
            logs.append(math.log(stake) + wealth + self.gained * math.log1p(bet * (bound + 1)))
        largest = max(logs)
        return largest + math.log(math.fsum(math.exp(one - largest) for one in logs))


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest number between two from which on something holds, to `PRECISION`."""
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
