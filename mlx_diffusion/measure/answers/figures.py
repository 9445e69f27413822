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
from mlx_diffusion.measure.answers.predicted_speed import predicted_speeds
from mlx_diffusion.measure.answers.statistics import wilson
from mlx_diffusion.measure.passes import count_drafted, count_passes, count_positions, count_rounds
from mlx_diffusion.modes import CAUSAL

MARGIN = 0.02  # of accuracy: what a variant may lose against the best one and still be recommended


@dataclass(frozen=True)
class Figures:
    """The figures of one variant, for a family or for all families together."""

    prompts: int
    right: int
    accuracy: float
    low: float  # of the 95 % interval, Wilson's
    high: float
    steps_per_canvas: float | None  # None where no canvas became text
    positions_per_token: float  # pushed through the layers behind the prompt, for every token written
    tokens_per_forward: float | None  # tokens written for every denoising step; None where no canvas became text
    limited: float  # share of canvases that took as many steps as they may
    seconds: float  # of work on one core, or on the GPU
    tokens: int | None = None  # written
    passes_per_token: float | None = None  # of the network behind the prompt, for every token written
    accepted_per_round: float | None = None  # of drafts, by a pass of the encoder; None without any

    @classmethod
    def of(cls, outcomes: Sequence[PromptOutcome], seconds: float, canvas_length: int) -> Figures:
        right = sum(outcome.right for outcome in outcomes)
        steps = sum(outcome.steps for outcome in outcomes)
        canvases = sum(outcome.canvases for outcome in outcomes)
        tokens = sum(outcome.tokens for outcome in outcomes)
        works = [outcome.all_work(canvas_length) for outcome in outcomes]
        accepted, rounds = sum(outcome.accepted for outcome in outcomes), sum(map(count_rounds, works))
        low, high = wilson(right, len(outcomes))
        return cls(
            prompts=len(outcomes),
            right=right,
            accuracy=right / len(outcomes),
            low=low,
            high=high,
            steps_per_canvas=steps / canvases if canvases else None,
            positions_per_token=sum(map(count_positions, works)) / tokens,
            tokens_per_forward=tokens / steps if canvases else None,
            limited=sum(outcome.limited for outcome in outcomes) / max(canvases, 1),
            seconds=seconds,
            tokens=tokens,
            passes_per_token=sum(map(count_passes, works)) / tokens,
            accepted_per_round=accepted / rounds if any(map(count_drafted, works)) else None,
        )


def family_figures(evaluation: Evaluation, variant: int, family: str) -> Figures:
    """The figures of one family in one variant."""
    cell = evaluation.cells[variant, family]
    return Figures.of(cell.outcomes, cell.seconds, evaluation.canvas_length)


def overall_figures(evaluation: Evaluation, variant: int) -> Figures:
    """The figures of all families together, in which every prompt has the same weight."""
    return Figures.of(evaluation.outcomes(variant), evaluation.seconds(variant), evaluation.canvas_length)


def denoises(evaluation: Evaluation) -> bool:
    """Whether all variants denoise canvases into text."""
    return not any(entry["mode"] in CAUSAL for entry in evaluation.variants)


def recommended_variant(evaluation: Evaluation) -> int | None:
    """The variant with the fewest positions per token among those that lose at most `MARGIN` against the best.

    None where some variant does not denoise: passes of one position and of a canvas are no measure of each other. A
    loss counts at the upper end of its 95 % interval on the same prompts, so few prompts recommend little.
    """
    if not denoises(evaluation):
        return None
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
        speeds = predicted_speeds(evaluation.outcomes(variant), evaluation.canvas_length)
        overall = asdict(overall_figures(evaluation, variant))
        described.append({**entry, "all": overall, "families": families, "predicted_tokens_per_second": speeds})
    bounds = one_step_bounds(evaluation.first_steps)
    recommended = recommended_variant(evaluation)
    return {
        **{key: evaluation.header[key] for key in ("model", "checkpoint", "device")},
        "seed": evaluation.plan["seed"],
        "max_tokens": evaluation.plan["max_tokens"],
        "ways": described,
        "recommended": None if recommended is None else evaluation.labels[recommended],
        "one_step_shuffles": [{**asdict(bound), "holds": bound.holds} for bound in bounds],
    }
