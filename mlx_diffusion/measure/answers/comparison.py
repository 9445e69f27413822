"""The difference between two evaluations of the same prompts, and whether it is more than chance.

Answers are compared prompt by prompt, by McNemar's exact test; steps by the sign test. Several families make several
tests, so p-values are corrected by Holm's method: over all families together, the chance of a false alarm is at most
5 %. Knows nothing of how results are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.answers.evaluation import Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.statistics import holm, sign_test
from mlx_diffusion.typed_json import from_json

LEVEL = 0.05
DERIVED = ("real", "real_steps")  # follow from the other figures of a difference
ALL = "all"


@dataclass(frozen=True)
class Difference:
    """How B differs from A in one family, or in all of them."""

    family: str
    prompts: int
    accuracy: tuple[float, float]  # of A and B
    gained: int  # prompts that only B answers rightly
    lost: int  # prompts that only A answers rightly
    p: float  # of the answers
    steps: tuple[float, float]  # a canvas, of A and B; 0 where no canvas became text
    p_steps: float

    @property
    def real(self) -> bool:
        """Whether the difference in accuracy is more than chance."""
        return self.p < LEVEL

    @property
    def real_steps(self) -> bool:
        return self.p_steps < LEVEL


@dataclass(frozen=True)
class Comparison:
    """The differences between two variants: over all families, then family by family."""

    a: str
    b: str
    differences: tuple[Difference, ...]

    def as_dict(self) -> dict[str, Any]:
        described = [
            {**asdict(found), "real": found.real, "real_steps": found.real_steps} for found in self.differences
        ]
        return {"a": self.a, "b": self.b, "differences": described}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Comparison:
        """The comparison that `as_dict` described. Raises ValueError, KeyError or TypeError for anything else."""
        entries = [{key: part for key, part in entry.items() if key not in DERIVED} for entry in content["differences"]]
        found = from_json(cls, {"a": content["a"], "b": content["b"], "differences": entries})
        if not found.differences:
            raise ValueError("a comparison without differences")
        return found


def matched_pairs(a: Sequence[PromptOutcome], b: Sequence[PromptOutcome]) -> tuple[int, int]:
    """The number of prompts that only b answers rightly, and the number that only a does."""
    gained = sum(not one.right and other.right for one, other in zip(a, b, strict=True))
    lost = sum(one.right and not other.right for one, other in zip(a, b, strict=True))
    return gained, lost


def compare(a: Evaluation, b: Evaluation) -> list[Comparison]:
    """Compare each variant of `a` with the one of the same name in `b`.

    Where both have a single variant, these two are compared whatever their names. Raises `EvaluationError` where the
    prompts differ or no variant is in both.
    """
    _check_prompts(a, b)
    families = [family for family in a.families if family in b.families]
    if len(a.labels) == len(b.labels) == 1:
        pairs = [(0, 0)]
    else:
        pairs = [(variant, b.labels.index(label)) for variant, label in enumerate(a.labels) if label in b.labels]
    if not pairs:
        raise EvaluationError(
            f"the two have no way of running in common (A: {', '.join(a.labels)}; B: {', '.join(b.labels)}); "
            "compare files of one way each, or of the same ways"
        )
    return [
        Comparison(a.labels[one], b.labels[other], tuple(_differences(a, one, b, other, families)))
        for one, other in pairs
    ]


def _check_prompts(a: Evaluation, b: Evaluation) -> None:
    of_a, of_b = a.plan["families"], b.plan["families"]
    common = of_a.keys() & of_b.keys()
    if not common:
        raise EvaluationError("the two files have no family in common; measure the same --suite twice")
    differing = sorted(family for family in common if of_a[family] != of_b[family])
    if differing:
        raise EvaluationError(
            f"the prompts of {differing[0]} differ between the two files; measure both with the same --suite, --count "
            "and --seed"
        )


def _differences(a: Evaluation, variant: int, b: Evaluation, other: int, families: Sequence[str]) -> list[Difference]:
    """The difference over all families, then those of each family with corrected p-values."""
    outcomes = {family: (a.cells[variant, family].outcomes, b.cells[other, family].outcomes) for family in families}
    raw = {family: _difference(family, *pair) for family, pair in outcomes.items()}
    p = holm({family: found.p for family, found in raw.items()})
    p_steps = holm({family: found.p_steps for family, found in raw.items()})
    both = [[outcome for pair in outcomes.values() for outcome in pair[side]] for side in (0, 1)]
    corrected = [replace(found, p=p[family], p_steps=p_steps[family]) for family, found in raw.items()]
    return [_difference(ALL, *both), *corrected]


def _difference(family: str, a: Sequence[PromptOutcome], b: Sequence[PromptOutcome]) -> Difference:
    gained, lost = matched_pairs(a, b)
    steps = [(_steps_per_canvas([x]), _steps_per_canvas([y])) for x, y in zip(a, b, strict=True)]
    more, fewer = sum(0 < x < y for x, y in steps), sum(0 < y < x for x, y in steps)
    return Difference(
        family=family,
        prompts=len(a),
        accuracy=(_accuracy(a), _accuracy(b)),
        gained=gained,
        lost=lost,
        p=sign_test(gained, lost),
        steps=(_steps_per_canvas(a), _steps_per_canvas(b)),
        p_steps=sign_test(more, fewer),
    )


def _accuracy(outcomes: Sequence[PromptOutcome]) -> float:
    return sum(outcome.right for outcome in outcomes) / len(outcomes)


def _steps_per_canvas(outcomes: Sequence[PromptOutcome]) -> float:
    """0 where no canvas became text."""
    canvases = sum(outcome.canvases for outcome in outcomes)
    return sum(outcome.steps for outcome in outcomes) / canvases if canvases else 0.0
