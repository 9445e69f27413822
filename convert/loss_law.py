"""The loss of rounding each of some matrices in any format, from what was measured of it in a few.

Loss at the logits grows with the squared error of the matrix itself, which is known exactly for every format; so one
factor for each matrix is all that has to be found, and every format that was measured tells of it. Single measurements
are too uncertain to decide by: where a small error makes a token take another expert, one position loses more than a
thousand others. Knows nothing of formats or sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 1e-12  # of a loss in nats: less is rounding


@dataclass(frozen=True)
class Measured:
    """One matrix in a few formats: its relative squared error, and what is lost, by kind of logits."""

    errors: Sequence[float]
    losses: Sequence[Sequence[float]]

    def factor(self, kind: int) -> float:
        """The loss of that kind for an error of 1: the geometric mean of what the formats say."""
        logs = [
            math.log(max(losses[kind], LEAST) / error)
            for error, losses in zip(self.errors, self.losses, strict=True)
            if error
        ]
        return math.exp(sum(logs) / len(logs)) if logs else 0.0


def loss_factors(matrices: Sequence[Measured], kinds: int) -> list[float]:
    """The loss of each matrix for an error of 1, as a share of what all lose together; all kinds count alike."""
    found = [0.0] * len(matrices)
    for kind in range(kinds):
        factors = [matrix.factor(kind) for matrix in matrices]
        total = sum(factors) or 1.0
        found = [sum(pair) for pair in zip(found, (factor / total / kinds for factor in factors), strict=True)]
    return found


def overall_loss(losses: Sequence[float]) -> float:
    """One number for the losses of all kinds of logits, in which each counts alike: their geometric mean."""
    return math.exp(sum(math.log(max(loss, LEAST)) for loss in losses) / len(losses))
