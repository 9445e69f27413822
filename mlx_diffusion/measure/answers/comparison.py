"""Two measurements of the same prompts: is the difference real?

Answers are compared prompt by prompt, by McNemar's exact test; steps by the sign test. Several families make several
tests, so p-values are Holm's: among all families together, a false alarm has a chance of at most 5 %. Knows nothing
of how results are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.answers.record import Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.statistics import holm, sign_test

LEVEL = 0.05
ALL = "all"


@dataclass(frozen=True)
class Difference:
    """How B differs from A in one family, or in all of them."""

    family: str
    prompts: int
    accuracy: tuple[float, float]  # of A and B
    gained: int  # prompts that B alone answers rightly
    lost: int  # prompts that A alone answers rightly
    p: float  # of the answers
    steps: tuple[float, float]  # a canvas, of A and B
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
    """Two ways, family by family, all of them first."""

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
        """What `as_dict` gave."""
        names = [field.name for field in fields(Difference)]
        entries = [{name: entry[name] for name in names} for entry in content["differences"]]
        pairs = [{**entry, **{key: tuple(entry[key]) for key in ("accuracy", "steps")}} for entry in entries]
        return cls(content["a"], content["b"], tuple(Difference(**entry) for entry in pairs))


def matched_pairs(a: Sequence[PromptOutcome], b: Sequence[PromptOutcome]) -> tuple[int, int]:
    """How many prompts b alone answers rightly, and how many a alone."""
    gained = sum(not one.right and other.right for one, other in zip(a, b, strict=True))
    lost = sum(one.right and not other.right for one, other in zip(a, b, strict=True))
    return gained, lost


def compare(a: Evaluation, b: Evaluation) -> list[Comparison]:
    """Every way that both have by the same name; or, where each has one alone, these two. Raises `EvaluationError`."""
    _check_prompts(a, b)
    families = [family for family in a.families if family in b.families]
    if len(a.labels) == len(b.labels) == 1:
        pairs = [(0, 0)]
    else:
        pairs = [(way, b.labels.index(label)) for way, label in enumerate(a.labels) if label in b.labels]
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
    of_a, of_b = (record.header["plan"]["families"] for record in (a, b))
    common = of_a.keys() & of_b.keys()
    if not common:
        raise EvaluationError("the two files have no family in common; measure the same --suite twice")
    differing = sorted(family for family in common if of_a[family] != of_b[family])
    if differing:
        raise EvaluationError(
            f"the prompts of {differing[0]} differ between the two files; measure both with the same --suite, --count "
            "and --seed"
        )


def _differences(a: Evaluation, way: int, b: Evaluation, other: int, families: Sequence[str]) -> list[Difference]:
    outcomes = {family: (a.cells[way, family].outcomes, b.cells[other, family].outcomes) for family in families}
    raw = {family: _difference(family, *pair) for family, pair in outcomes.items()}
    p = holm({family: found.p for family, found in raw.items()})
    p_steps = holm({family: found.p_steps for family, found in raw.items()})
    every = [[outcome for pair in outcomes.values() for outcome in pair[side]] for side in (0, 1)]
    adjusted = [
        Difference(**{**vars(found), "p": p[family], "p_steps": p_steps[family]}) for family, found in raw.items()
    ]
    return [_difference(ALL, *every), *adjusted]


def _difference(family: str, a: Sequence[PromptOutcome], b: Sequence[PromptOutcome]) -> Difference:
    gained, lost = matched_pairs(a, b)
    steps_a, steps_b = ([outcome.steps / outcome.canvases for outcome in side] for side in (a, b))
    more = sum(y > x for x, y in zip(steps_a, steps_b, strict=True))
    fewer = sum(y < x for x, y in zip(steps_a, steps_b, strict=True))
    return Difference(
        family=family,
        prompts=len(a),
        accuracy=(_share(a), _share(b)),
        gained=gained,
        lost=lost,
        p=sign_test(gained, lost),
        steps=(_steps(a), _steps(b)),
        p_steps=sign_test(more, fewer),
    )


def _share(outcomes: Sequence[PromptOutcome]) -> float:
    return sum(outcome.right for outcome in outcomes) / len(outcomes)


def _steps(outcomes: Sequence[PromptOutcome]) -> float:
    return sum(outcome.steps for outcome in outcomes) / sum(outcome.canvases for outcome in outcomes)
