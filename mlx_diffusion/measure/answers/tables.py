"""The tables of an evaluation and of a comparison, for a terminal or as Markdown.

Knows nothing of how figures come about.
"""

from __future__ import annotations

from collections.abc import Callable

from mlx_diffusion.display import interval, per_cent, table
from mlx_diffusion.measure.answers.comparison import Comparison, Difference
from mlx_diffusion.measure.answers.evaluation import Evaluation
from mlx_diffusion.measure.answers.figures import (
    MARGIN,
    Figures,
    family_figures,
    overall_figures,
    recommended_variant,
)
from mlx_diffusion.measure.answers.one_step_bound import one_step_bounds

FIGURES = (
    "prompts", "right %", "95 % interval", "steps/canvas", "positions/token", "tokens/forward", "at limit", "seconds",
)  # fmt: skip


def _figures_row(name: str, found: Figures) -> list[str]:
    return [
        name,
        str(found.prompts),
        per_cent(found.accuracy),
        interval(found.low, found.high),
        f"{found.steps_per_canvas:.1f}",
        f"{found.positions_per_token:.1f}",
        f"{found.tokens_per_forward:.2f}",
        f"{per_cent(found.limited)} %",
        f"{found.seconds:.0f}",
    ]


def family_table(evaluation: Evaluation, variant: int, markdown: bool = False) -> str:
    """One variant: a row for each family, and all of them together in the last row."""
    rows = [_figures_row(family, family_figures(evaluation, variant, family)) for family in evaluation.families]
    if len(rows) > 1:
        rows.append(_figures_row("all", overall_figures(evaluation, variant)))
    return table(["family", *FIGURES], rows, markdown)


def variant_table(evaluation: Evaluation, markdown: bool = False) -> str:
    """All families together: a row for each variant."""
    rows = [
        _figures_row(label, overall_figures(evaluation, variant)) for variant, label in enumerate(evaluation.labels)
    ]
    return table(["way", *FIGURES], rows, markdown)


def accuracy_tables(evaluation: Evaluation, markdown: bool = False) -> str:
    """Right answers in per cent: a table for each mode, in it a row for each family and a column for each variant."""
    return _tables_by_mode(evaluation, "right %", lambda found: per_cent(found.accuracy), markdown)


def steps_tables(evaluation: Evaluation, markdown: bool = False) -> str:
    """Denoising steps a canvas, in tables like those of `accuracy_tables`."""
    return _tables_by_mode(evaluation, "steps/canvas", lambda found: f"{found.steps_per_canvas:.1f}", markdown)


def _tables_by_mode(evaluation: Evaluation, name: str, cell: Callable[[Figures], str], markdown: bool) -> str:
    described = evaluation.variants
    tables = []
    for mode in dict.fromkeys(entry["mode"] for entry in described):
        variants = [variant for variant, entry in enumerate(described) if entry["mode"] == mode]
        rows = [
            [family, *(cell(family_figures(evaluation, variant, family)) for variant in variants)]
            for family in evaluation.families
        ]
        rows.append(["all", *(cell(overall_figures(evaluation, variant)) for variant in variants)])
        options = list(described[variants[0]]["options"])
        values = [", ".join(f"{value:g}" for value in described[variant]["options"].values()) for variant in variants]
        title = f"{name}, {mode}" + (f", {', '.join(options)}" if options else "")
        tables.append(table([title, *values], rows, markdown))
    return "\n\n".join(tables)


def bound_table(evaluation: Evaluation, markdown: bool = False) -> str:
    """Shuffles after a single step beside n!/nⁿ."""
    rows = [
        [
            str(bound.length),
            str(bound.prompts),
            per_cent(bound.bound),
            per_cent(bound.draws / bound.prompts),
            interval(bound.low, bound.high),
            f"{bound.chance:.2g}",
            "yes" if bound.holds else "NO",
            per_cent(bound.argmaxes / bound.prompts),
        ]
        for bound in one_step_bounds(evaluation.first_steps)
    ]
    header = ["items n", "prompts", "n!/n^n %", "valid draws %", "95 % interval", "chance", "within", "valid argmax %"]
    return table(header, rows, markdown)


def recommendation(evaluation: Evaluation) -> str:
    """A sentence that names the recommended variant and says why."""
    return (
        f"Take {evaluation.labels[recommended_variant(evaluation)]}: it has the fewest decoder positions per token of "
        f"all ways that lose at most {100 * MARGIN:.0f} points of accuracy against the best (95 %)."
    )


def evaluation_text(evaluation: Evaluation) -> str:
    """All that a terminal shows of an evaluation."""
    if len(evaluation.labels) == 1:
        parts = [evaluation.labels[0], family_table(evaluation, 0)]
    else:
        parts = [variant_table(evaluation), accuracy_tables(evaluation), steps_tables(evaluation)]
        parts.append(recommendation(evaluation))
    if evaluation.first_steps:
        parts.append(
            "Shuffles after one step: with all orders equally likely, independent draws are valid in n!/n^n of cases."
        )
        parts.append(bound_table(evaluation))
    return "\n\n".join(parts)


def comparison_text(found: Comparison) -> str:
    """All that a terminal shows of a comparison."""
    explained = (
        "gained: B alone is right; lost: A alone is right. p: McNemar's exact test of the answers and the sign test of "
        "the steps, on the same prompts, Holm's correction over families; real: p < 0.05."
    )
    return f"A: {found.a}\nB: {found.b}\n\n{comparison_table(found)}\n\n{explained}"


def comparison_table(found: Comparison) -> str:
    """The differences between two variants, and which of them are real."""
    header = [
        "family", "prompts", "A %", "B %", "gained", "lost", "p", "real", "A steps", "B steps", "p", "real",
    ]  # fmt: skip
    return table(header, [_difference_row(difference) for difference in found.differences])


def _difference_row(found: Difference) -> list[str]:
    return [
        found.family,
        str(found.prompts),
        *map(per_cent, found.accuracy),
        str(found.gained),
        str(found.lost),
        f"{found.p:.2g}",
        "yes" if found.real else "no",
        *(f"{steps:.1f}" for steps in found.steps),
        f"{found.p_steps:.2g}",
        "yes" if found.real_steps else "no",
    ]
