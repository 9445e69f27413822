"""Outcomes to the figures that are reported: accuracy with its interval, and what it cost.

Knows nothing of how figures are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_diffusion.measure.answers.comparison import matched_pairs
from mlx_diffusion.measure.answers.record import Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.statistics import wilson
from mlx_diffusion.measure.answers.theory import bounds

MARGIN = 0.02  # of right answers, that a way may lose against the best and still be recommended


@dataclass(frozen=True)
class Figures:
    """What a family, or all of them together, came to in one way of running it."""

    prompts: int
    right: int
    accuracy: float
    low: float  # the 95 % interval, Wilson's
    high: float
    steps_per_canvas: float
    positions_per_token: float  # decoder positions pushed through the layers for every token written
    tokens_per_forward: float  # tokens written for every denoising step
    limited: float  # share of canvases that took as many steps as they may
    seconds: float  # of work on one core, or on the GPU

    @classmethod
    def of(cls, outcomes: Sequence[PromptOutcome], seconds: float, canvas_length: int) -> Figures:
        right = sum(outcome.right for outcome in outcomes)
        steps = sum(outcome.steps for outcome in outcomes)
        canvases = sum(outcome.canvases for outcome in outcomes)
        tokens = sum(outcome.tokens for outcome in outcomes)
        low, high = wilson(right, len(outcomes))
        return cls(
            prompts=len(outcomes),
            right=right,
            accuracy=right / len(outcomes),
            low=low,
            high=high,
            steps_per_canvas=steps / canvases,
            positions_per_token=steps * canvas_length / tokens,
            tokens_per_forward=tokens / steps,
            limited=sum(outcome.limited for outcome in outcomes) / canvases,
            seconds=seconds,
        )


def of_family(record: Evaluation, way: int, family: str) -> Figures:
    """One family in one way."""
    cell = record.cells[way, family]
    return Figures.of(cell.outcomes, cell.seconds, record.canvas_length)


def of_all(record: Evaluation, way: int) -> Figures:
    """All families together; each counts by its prompts."""
    return Figures.of(record.outcomes(way), record.seconds(way), record.canvas_length)


def recommended(record: Evaluation) -> int:
    """The way to take: the fewest positions per token of all that lose no more than `MARGIN` against the best.

    A loss counts at the upper end of what the same prompts leave open at 95 %, so that few prompts recommend little.
    """
    all_of_them = [of_all(record, way) for way in range(len(record.labels))]
    best = max(range(len(all_of_them)), key=lambda way: all_of_them[way].right)
    good = [way for way in range(len(all_of_them)) if way == best or _possible_loss(record, best, way) <= MARGIN]
    return min(good, key=lambda way: all_of_them[way].positions_per_token)


def _possible_loss(record: Evaluation, best: int, way: int) -> float:
    """How much accuracy the way may lose against the best one, at most."""
    gained, lost = matched_pairs(record.outcomes(best), record.outcomes(way))
    count = len(record.outcomes(best))
    return wilson(lost, count)[1] - wilson(gained, count)[0]


def report(record: Evaluation) -> dict[str, Any]:
    """All figures as JSON."""
    ways = []
    for way, described in enumerate(record.header["plan"]["ways"]):
        families = {family: asdict(of_family(record, way, family)) for family in record.families}
        ways.append({**described, "all": asdict(of_all(record, way)), "families": families})
    return {
        **{key: record.header[key] for key in ("model", "checkpoint", "device")},
        "seed": record.header["plan"]["seed"],
        "max_tokens": record.header["plan"]["max_tokens"],
        "ways": ways,
        "recommended": record.labels[recommended(record)],
        "one_step_shuffles": [{**asdict(entry), "holds": entry.holds} for entry in bounds(record.first_steps)],
    }
