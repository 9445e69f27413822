"""Intervals and exact tests for counts of right answers.

The tests are exact, since a normal approximation is wrong for a dozen prompts. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist


def wilson(right: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (low, high) for a share of which `right` of `count` were seen."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def binomial_at_most(right: int, count: int, share: float) -> float:
    """The probability of `right` or fewer of `count` when each is right with probability `share`."""
    if share in (0, 1):
        return float(right >= share * count)

    def chance(k: int) -> float:
        """Of exactly k; by logarithms, since the factors alone leave the range of numbers from 1,000 prompts on."""
        ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        return math.exp(ways + k * math.log(share) + (count - k) * math.log1p(-share))

    return min(math.fsum(map(chance, range(min(right, count) + 1))), 1.0)


def sign_test(ups: int, downs: int) -> float:
    """The two-sided exact p of pairs that differ, `ups` in one direction and `downs` in the other.

    For right and wrong answers this is McNemar's exact test.
    """
    count = ups + downs
    tail = sum(math.comb(count, k) for k in range(min(ups, downs) + 1))
    return min(2 * tail / 2**count, 1.0)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected by Holm's method for many tests.

    If values below a level count as real, the chance of any false alarm among all of them is at most that level.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(p_values[name] * (len(p_values) - rank), 1.0))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
