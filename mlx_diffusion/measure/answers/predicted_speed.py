"""Predicted speed of the published model on some of Apple's chips, had it written with the passes of an evaluation.

Nothing is run, and nothing is said of how many passes the published model itself would take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE
from mlx_diffusion.fit.chips import SHOWN
from mlx_diffusion.fit.prediction import Schedule, predict_each, published_shape
from mlx_diffusion.measure.answers.evaluation import PromptOutcome
from mlx_diffusion.measure.passes import BESIDE, as_passes

RECIPE = DEFAULT_RECIPE


def predicted_speeds(outcomes: Sequence[PromptOutcome], canvas_length: int) -> dict[str, float] | None:
    """Tokens a second by chip, of all these texts written one after the other, their prompts' time left out.

    None where the record does not say how long prompts were, or nothing was written behind their passes.
    """
    schedule = schedule_of_outcomes(outcomes, canvas_length)
    if schedule is None or not schedule.writing:
        return None
    return {one.chip.label: one.tokens_per_second for one in predict_each(schedule, published_shape(), SHOWN)}


def schedule_of_outcomes(outcomes: Sequence[PromptOutcome], canvas_length: int) -> Schedule | None:
    """The passes of these texts, those alike in kind and width as one entry.

    Its prefix is the mean, as if each text's passes stood in its middle; a draft beside a prompt stands at its end.
    None where no length of a prompt is known.
    """
    times: Counter[tuple[str, int, int]] = Counter()
    prefixes: Counter[tuple[str, int, int]] = Counter()
    for outcome in outcomes:
        if outcome.prompt_tokens is None:
            return None
        for kind, width, count in outcome.all_work(canvas_length):
            beside = outcome.prompt_tokens if kind == BESIDE else 0  # it matters how wide that pass is without it
            times[kind, width, beside] += count
            prefixes[kind, width, beside] += count * (beside or outcome.prompt_tokens + outcome.tokens // 2)
    writing = [
        one
        for (kind, width, beside), count in sorted(times.items())
        for one in as_passes(((kind, width, count),), prefixes[kind, width, beside] // count)
    ]
    return Schedule((), tuple(writing), sum(outcome.tokens for outcome in outcomes))
