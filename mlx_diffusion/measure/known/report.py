"""The suites `infill`, `forms` and `decisions`, and those of schemas in files, run on a checkpoint, as tables.

Knows nothing of how a way finds what it finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_diffusion.display import interval, per_cent, table
from mlx_diffusion.errors import OptionError
from mlx_diffusion.measure.answers.statistics import wilson
from mlx_diffusion.measure.answers.suites import WORDED_PREFIX
from mlx_diffusion.measure.known.cases import (
    form_cases,
    gap_cases,
    question_cases,
    read_gaps,
    worded_form_cases,
    worded_gap_cases,
    worded_question_cases,
)
from mlx_diffusion.measure.known.runs import Model, WayFigures, run_forms, run_gaps, run_questions
from mlx_diffusion.measure.known.schemas import read_schemas, run_schemas

CASES: Mapping[
    str, Callable[[int, int], Sequence[Any]]
] = {  # the worded ones for checkpoints that did not train on them
    "infill": gap_cases,
    "forms": form_cases,
    "decisions": question_cases,
    "worded-infill": worded_gap_cases,
    "worded-forms": worded_form_cases,
    "worded-decisions": worded_question_cases,
}
RUNS: Mapping[str, Callable[[Model, Any, Callable[[str], None]], list[WayFigures]]] = {
    "infill": run_gaps,
    "forms": run_forms,
    "decisions": run_questions,
}
FILES: Mapping[str, Callable[[Path], list[Any]]] = {"infill": read_gaps, "schema": read_schemas}
DEFAULT_COUNT = 200


@dataclass(frozen=True)
class KnownReport:
    """What was measured, and of what."""

    model: str
    seed: int
    figures: tuple[WayFigures, ...]

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        ways = [
            dataclasses.asdict(own)
            | {"calibration_error": own.calibration_error, "error_by_chance": own.error_by_chance}
            for own in self.figures
        ]
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
                *("–" if error is None else f"{error:.3f}" for error in (own.calibration_error, own.error_by_chance)),
            ]
            for own in self.figures
        ]
        header = [
            "suite",
            "way",
            "right % (95 % interval)",
            "cases",
            "positions/case",
            "calibration error",
            "by chance",
        ]
        tables = [table(header, rows, markdown=markdown)]
        for own in self.figures:
            if own.calibration:
                bins = [[per_cent(bin.probability), per_cent(bin.right), str(bin.answers)] for bin in own.calibration]
                tables.append(table([f"said %, {own.way}", "right %", "answers"], bins, markdown=markdown))
        return "\n\n".join(tables)


def measure_known(
    name: str, model: Model, suites: Sequence[str], count: int | None, seed: int, tell: Callable[[str], None]
) -> KnownReport:
    """Measure these suites: names in `CASES`, or one of `FILES` with a file, as in infill:FILE.jsonl.

    Raises `OptionError` and `EvaluationError`.
    """
    figures, count = list[WayFigures](), count or DEFAULT_COUNT
    plans = [(suite, *suite.partition(":")[::2]) for suite in suites]
    for suite, bare, file in plans:
        if bare not in (FILES if file else CASES):
            raise OptionError(f"suite {suite!r} cannot be measured beside {', '.join(CASES)}; run it by itself")
    read = {suite: FILES[bare](Path(file))[:count] for suite, bare, file in plans if file}
    for suite, bare, file in plans:
        cases = read.get(suite) or CASES[bare](count, seed)
        if bare == "schema":
            found = run_schemas(model, cases, tell)
        elif file:
            found = run_gaps(model, cases, tell, model[0].config.canvas_length // 2)
        else:
            found = RUNS[bare.removeprefix(WORDED_PREFIX)](model, cases, tell)
        figures += [replace(own, suite=suite) for own in found]
    return KnownReport(name, seed, tuple(figures))
