"""The figures reported of an evaluation: accuracy with its interval, and what the answers cost.

Knows nothing of how figures are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_diffusion.measure.answers.comparison import matched_pairs
from mlx_diffusion.measure.answers.evaluation import Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.one_step_bound import one_step_bounds
from mlx_diffusion.measure.answers.statistics import wilson

MARGIN = 0.02  # of accuracy: what a variant may lose against the best one and still be recommended


@dataclass(frozen=True)
class Figures:
    """The figures of one variant, for a family or for all families together."""

    prompts: int
    right: int
    accuracy: float
    low: float  # of the 95 % interval, Wilson's
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


def family_figures(evaluation: Evaluation, variant: int, family: str) -> Figures:
    """The figures of one family in one variant."""
    cell = evaluation.cells[variant, family]
    return Figures.of(cell.outcomes, cell.seconds, evaluation.canvas_length)


def overall_figures(evaluation: Evaluation, variant: int) -> Figures:
    """The figures of all families together, in which every prompt has the same weight."""
    return Figures.of(evaluation.outcomes(variant), evaluation.seconds(variant), evaluation.canvas_length)


def recommended_variant(evaluation: Evaluation) -> int:
    """The variant with the fewest positions per token among those that lose at most `MARGIN` against the best.

    A loss counts at the upper end of its 95 % interval on the same prompts, so few prompts recommend little.
    """
    overall = [overall_figures(evaluation, variant) for variant in range(len(evaluation.labels))]
    best = max(range(len(overall)), key=lambda variant: overall[variant].right)
    good = [
        variant
        for variant in range(len(overall))
        if variant == best or _largest_loss(evaluation, best, variant) <= MARGIN
    ]
    return min(good, key=lambda variant: overall[variant].positions_per_token)


def _largest_loss(evaluation: Evaluation, best: int, variant: int) -> float:
    """The most accuracy that a variant may lose against the best one."""
    gained, lost = matched_pairs(evaluation.outcomes(best), evaluation.outcomes(variant))
    count = len(evaluation.outcomes(best))
    return wilson(lost, count)[1] - wilson(gained, count)[0]


def figures_dict(evaluation: Evaluation) -> dict[str, Any]:
    """All figures as JSON."""
    described = []
    for variant, entry in enumerate(evaluation.variants):
        families = {family: asdict(family_figures(evaluation, variant, family)) for family in evaluation.families}
        described.append({**entry, "all": asdict(overall_figures(evaluation, variant)), "families": families})
    bounds = one_step_bounds(evaluation.first_steps)
    return {
        **{key: evaluation.header[key] for key in ("model", "checkpoint", "device")},
        "seed": evaluation.plan["seed"],
        "max_tokens": evaluation.plan["max_tokens"],
        "ways": described,
        "recommended": evaluation.labels[recommended_variant(evaluation)],
        "one_step_shuffles": [{**asdict(bound), "holds": bound.holds} for bound in bounds],
    }
