"""The suites `infill`, `forms` and `decisions` of an evaluation, run on a checkpoint and shown as tables.

Knows nothing of how a way finds what it finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.display import interval, per_cent, table
from mlx_diffusion.errors import OptionError
from mlx_diffusion.measure.answers.statistics import wilson
from mlx_diffusion.measure.known.cases import form_cases, gap_cases, question_cases, read_gaps
from mlx_diffusion.measure.known.runs import Model, WayFigures, run_forms, run_gaps, run_questions

SUITES = ("infill", "forms", "decisions")
DEFAULT_COUNT = 200


@dataclass(frozen=True)
class KnownReport:
    """What was measured, and of what."""

    model: str
    seed: int
    figures: tuple[WayFigures, ...]

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        ways = [dataclasses.asdict(own) | {"calibration_error": own.calibration_error} for own in self.figures]
        return {"model": self.model, "seed": self.seed, "ways": ways}

    def text(self, markdown: bool = False) -> str:
        """The tables: what was right at what cost, and how far probabilities can be trusted."""
        rows = [
            [
                own.suite,
                own.way,
                f"{per_cent(own.right / own.count)} ({interval(*wilson(own.right, own.count))})",
                str(own.count),
                "–" if own.positions is None else f"{own.positions:.0f}",
                "–" if own.calibration_error is None else f"{own.calibration_error:.3f}",
            ]
            for own in self.figures
        ]
        header = ["suite", "way", "right % (95 % interval)", "cases", "positions/case", "calibration error"]
        tables = [table(header, rows, markdown=markdown)]
        for own in self.figures:
            if own.calibration:
                bins = [[per_cent(bin.probability), per_cent(bin.right), str(bin.answers)] for bin in own.calibration]
                tables.append(table([f"said %, {own.way}", "right %", "answers"], bins, markdown=markdown))
        return "\n\n".join(tables)


def measure_known(
    name: str, model: Model, suites: Sequence[str], count: int | None, seed: int, tell: Callable[[str], None]
) -> KnownReport:
    """Measure these suites: names of `SUITES`, or infill:FILE.jsonl. Raises `OptionError` and `EvaluationError`."""
    figures, count = list[WayFigures](), count or DEFAULT_COUNT
    plans = [(suite, *suite.partition(":")[::2]) for suite in suites]
    for suite, bare, file in plans:
        if bare not in SUITES or (file and bare != "infill"):
            raise OptionError(f"suite {suite!r} cannot be measured beside {', '.join(SUITES)}; run it by itself")
    gaps = {suite: read_gaps(Path(file))[:count] for suite, _, file in plans if file}
    for suite, bare, _ in plans:
        if bare == "infill":
            figures += run_gaps(model, gaps.get(suite) or gap_cases(count, seed), tell)
        elif bare == "forms":
            figures += run_forms(model, form_cases(count, seed), tell)
        else:
            figures += run_questions(model, question_cases(count, seed), tell)
    return KnownReport(name, seed, tuple(figures))
