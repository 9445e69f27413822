"""The tables of an evaluation and of a comparison, for a terminal or as Markdown.

Knows nothing of how figures come about.
"""

from __future__ import annotations

from collections.abc import Callable

from mlx_diffusion.display import interval, per_cent, table
from mlx_diffusion.fit.chips import LABELS
from mlx_diffusion.measure.answers.comparison import Comparison, Difference
from mlx_diffusion.measure.answers.evaluation import Evaluation
from mlx_diffusion.measure.answers.figures import (
    MARGIN,
    Figures,
    denoises,
    family_figures,
    overall_figures,
    recommended_variant,
)
from mlx_diffusion.measure.answers.one_step_bound import one_step_bounds
from mlx_diffusion.measure.answers.predicted_speed import RECIPE, predicted_speeds

FIGURES = (
    "prompts", "right %", "95 % interval", "tokens", "steps/canvas", "passes/token", "positions/token",
    "accepted/round", "at limit", "seconds",
)  # fmt: skip

PREDICTION = (
    f"Predicted, not measured: tokens a second of the published 26B model in {RECIPE}, had it written with these very "
    "passes. How many it would take is not known from another checkpoint's."
)


def _figures_row(name: str, found: Figures) -> list[str]:
    return [
        name,
        str(found.prompts),
        per_cent(found.accuracy),
        interval(found.low, found.high),
        str(found.tokens),
        figure(found.steps_per_canvas, 1),
        figure(found.passes_per_token, 2),
        f"{found.positions_per_token:.1f}",
        figure(found.accepted_per_round, 2),
        "–" if found.steps_per_canvas is None else f"{per_cent(found.limited)} %",
        f"{found.seconds:.0f}",
    ]


def figure(value: float | None, decimals: int) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{decimals}f}"


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
    return _tables_by_mode(evaluation, "steps/canvas", lambda found: figure(found.steps_per_canvas, 1), markdown)


def family_tables(evaluation: Evaluation) -> list[str]:
    """Several variants, family by family."""
    if denoises(evaluation):
        return [accuracy_tables(evaluation), steps_tables(evaluation)]
    return side_by_side_tables(evaluation)


def side_by_side_tables(evaluation: Evaluation, markdown: bool = False) -> list[str]:
    """Variants that write in different ways: for each figure a table, a row for each family, a column a variant."""
    figures: list[tuple[str, Callable[[Figures], str]]] = [
        ("right % (95 % interval)", accuracy_text),
        ("passes/token", lambda found: figure(found.passes_per_token, 2)),
        ("positions/token", lambda found: f"{found.positions_per_token:.1f}"),
        ("accepted/round", lambda found: figure(found.accepted_per_round, 2)),
        ("tokens", lambda found: str(found.tokens)),
    ]
    variants = range(len(evaluation.labels))
    found = {
        family: [family_figures(evaluation, variant, family) for variant in variants] for family in evaluation.families
    }
    found["all"] = [overall_figures(evaluation, variant) for variant in variants]
    return [
        table([name, *evaluation.labels], [[family, *map(cell, own)] for family, own in found.items()], markdown)
        for name, cell in figures
    ]


def accuracy_text(found: Figures) -> str:
    """Right answers in per cent, with their interval."""
    return f"{per_cent(found.accuracy)} ({interval(found.low, found.high)})"


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


def predicted_table(evaluation: Evaluation, markdown: bool = False) -> str | None:
    """Predicted tokens a second by chip, a row for each variant whose record says enough; None where none does."""
    found = {
        label: predicted_speeds(evaluation.outcomes(variant), evaluation.canvas_length)
        for variant, label in enumerate(evaluation.labels)
    }
    rows = [[label, *(f"{speed:.1f}" for speed in speeds.values())] for label, speeds in found.items() if speeds]
    return table(["way", *LABELS], rows, markdown) if rows else None


def recommendation(evaluation: Evaluation) -> str | None:
    """A sentence that names the recommended variant and says why; None where there is none."""
    variant = recommended_variant(evaluation)
    if variant is None:
        return None
    return (
        f"Take {evaluation.labels[variant]}: it has the fewest decoder positions per token of "
        f"all ways that lose at most {100 * MARGIN:.0f} points of accuracy against the best (95 %)."
    )


def evaluation_text(evaluation: Evaluation) -> str:
    """All that a terminal shows of an evaluation."""
    if len(evaluation.labels) == 1:
        parts = [evaluation.labels[0], family_table(evaluation, 0)]
    else:
        parts = [variant_table(evaluation), *family_tables(evaluation), *filter(None, [recommendation(evaluation)])]
    if predicted := predicted_table(evaluation):
        parts += [PREDICTION, predicted]
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
        *(figure(steps or None, 1) for steps in found.steps),
        f"{found.p_steps:.2g}",
        "yes" if found.real_steps else "no",
    ]
