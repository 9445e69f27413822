"""Figures as tables, for a terminal or as Markdown.

Knows nothing of how figures come about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlx_diffusion.measure.answers import figures
from mlx_diffusion.measure.answers.comparison import Comparison, Difference
from mlx_diffusion.measure.answers.figures import Figures
from mlx_diffusion.measure.answers.record import Evaluation
from mlx_diffusion.measure.answers.theory import bounds

COSTS = ("steps/canvas", "positions/token", "tokens/forward", "at limit", "seconds")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Rows of text under a header, the first column to the left, the others to the right."""
    if markdown:
        rule = ["---", *["---:"] * (len(header) - 1)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *others = row
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, [header, *rows]))


def per_cent(share: float) -> str:
    return f"{100 * share:.1f}"


def interval(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _costs(found: Figures) -> list[str]:
    return [
        f"{found.steps_per_canvas:.1f}",
        f"{found.positions_per_token:.1f}",
        f"{found.tokens_per_forward:.2f}",
        f"{per_cent(found.limited)} %",
        f"{found.seconds:.0f}",
    ]


def _row(name: str, found: Figures) -> list[str]:
    return [name, str(found.prompts), per_cent(found.accuracy), interval(found.low, found.high), *_costs(found)]


def family_table(record: Evaluation, way: int, markdown: bool = False) -> str:
    """One way of running, family by family, and all of them together in the last row."""
    rows = [_row(family, figures.of_family(record, way, family)) for family in record.families]
    if len(rows) > 1:
        rows.append(_row("all", figures.of_all(record, way)))
    return table(["family", "prompts", "right %", "95 % interval", *COSTS], rows, markdown)


def way_table(record: Evaluation, markdown: bool = False) -> str:
    """All families together, way by way."""
    rows = [_row(label, figures.of_all(record, way)) for way, label in enumerate(record.labels)]
    return table(["way", "prompts", "right %", "95 % interval", *COSTS], rows, markdown)


def accuracy_tables(record: Evaluation, markdown: bool = False) -> str:
    """Right answers in per cent, a family a row: one table a mode, a column for each of its ways."""
    return _by_mode(record, "right %", lambda found: per_cent(found.accuracy), markdown)


def steps_tables(record: Evaluation, markdown: bool = False) -> str:
    """Denoising steps a canvas, a family a row: one table a mode, a column for each of its ways."""
    return _by_mode(record, "steps/canvas", lambda found: f"{found.steps_per_canvas:.1f}", markdown)


def _by_mode(record: Evaluation, name: str, cell: Callable[[Figures], str], markdown: bool) -> str:
    described = record.header["plan"]["ways"]
    tables = []
    for mode in dict.fromkeys(way["mode"] for way in described):
        ways = [way for way, entry in enumerate(described) if entry["mode"] == mode]
        rows = [[family, *(cell(figures.of_family(record, way, family)) for way in ways)] for family in record.families]
        rows.append(["all", *(cell(figures.of_all(record, way)) for way in ways)])
        options = list(described[ways[0]]["options"])
        values = [", ".join(f"{value:g}" for value in described[way]["options"].values()) for way in ways]
        title = f"{name}, {mode}" + (f", {', '.join(options)}" if options else "")
        tables.append(table([title, *values], rows, markdown))
    return "\n\n".join(tables)


def bound_table(record: Evaluation, markdown: bool = False) -> str:
    """Shuffles after a single step beside n!/nⁿ."""
    rows = [
        [
            str(entry.length),
            str(entry.prompts),
            per_cent(entry.bound),
            per_cent(entry.draws / entry.prompts),
            interval(entry.low, entry.high),
            f"{entry.chance:.2g}",
            "yes" if entry.holds else "NO",
            per_cent(entry.argmaxes / entry.prompts),
        ]
        for entry in bounds(record.first_steps)
    ]
    header = ["items n", "prompts", "n!/n^n %", "valid draws %", "95 % interval", "chance", "within", "valid argmax %"]
    return table(header, rows, markdown)


def comparison_table(found: Comparison, markdown: bool = False) -> str:
    """The differences between two ways, and which of them are real."""
    rows = [_difference_row(difference) for difference in found.differences]
    header = [
        "family", "prompts", "A %", "B %", "gained", "lost", "p", "real", "A steps", "B steps", "p", "real",
    ]  # fmt: skip
    return table(header, rows, markdown)


def comparison_text(found: Comparison) -> str:
    """All that a terminal is shown of a comparison."""
    explained = (
        "gained: B alone is right; lost: A alone is right. p: McNemar's exact test of the answers and the sign test of "
        "the steps, on the same prompts, Holm's correction over families; real: p < 0.05."
    )
    return f"A: {found.a}\nB: {found.b}\n\n{comparison_table(found)}\n\n{explained}"


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


def advice(record: Evaluation) -> str:
    """Which way to take, and why."""
    return (
        f"Take {record.labels[figures.recommended(record)]}: it has the fewest decoder positions per token of all ways "
        f"that lose at most {100 * figures.MARGIN:.0f} points of accuracy against the best (95 %)."
    )


def text(record: Evaluation) -> str:
    """All that a terminal is shown of a measurement."""
    if len(record.labels) == 1:
        parts = [record.labels[0], family_table(record, 0)]
    else:
        parts = [way_table(record), accuracy_tables(record), steps_tables(record)]
        parts.append(advice(record))
    if record.first_steps:
        parts.append(
            "Shuffles after one step: with all orders equally likely, independent draws are valid in n!/n^n of cases."
        )
        parts.append(bound_table(record))
    return "\n\n".join(parts)
