"""What a measurement found: one outcome a prompt and way, and the file that keeps them.

The file is one JSON object with a column a figure, small enough for a repository. Knows nothing of models, of
statistics or of how a run goes on after an interrupt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.answers.theory import FirstStep

FORMAT = "mlx-diffusion evaluation 1"
COLUMNS = ("steps", "canvases", "limited", "tokens")


@dataclass(frozen=True)
class PromptOutcome:
    """How one prompt went."""

    right: bool
    steps: int  # denoising steps, over all canvases
    canvases: int
    limited: int  # canvases that took as many steps as they may
    tokens: int  # written, the stop token included
    answer: str = ""


@dataclass(frozen=True)
class Cell:
    """The outcomes of one family run in one way, in the order of its prompts."""

    outcomes: tuple[PromptOutcome, ...]
    seconds: float  # of work, summed over batches


@dataclass(frozen=True)
class Evaluation:
    """A whole measurement. `header` holds what `HEADER` names; its "plan" is that of `EvaluationPlan.as_dict`."""

    header: Mapping[str, Any]
    cells: Mapping[tuple[int, str], Cell]  # by way and family
    first_steps: tuple[FirstStep, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The ways, by name."""
        return [way["label"] for way in self.header["plan"]["ways"]]

    @property
    def families(self) -> list[str]:
        return list(self.header["plan"]["families"])

    @property
    def canvas_length(self) -> int:
        length: int = self.header["canvas_length"]
        return length

    def outcomes(self, way: int) -> list[PromptOutcome]:
        """Those of all families, in order."""
        return [outcome for family in self.families for outcome in self.cells[way, family].outcomes]

    def seconds(self, way: int) -> float:
        return sum(self.cells[way, family].seconds for family in self.families)

    def to_json(self, answers: bool) -> str:
        """The file's content; with `answers`, what was written on every prompt, too."""
        cells = [_cell_lines(way, family, cell, answers) for (way, family), cell in self.cells.items()]
        content = {"format": FORMAT, **self.header, "first_steps": [step.as_dict() for step in self.first_steps]}
        head = json.dumps(content, ensure_ascii=False, indent=1).removesuffix("\n}")
        return head + ',\n "cells": [\n' + ",\n".join(cells) + "\n ]\n}\n"

    @classmethod
    def read(cls, file: Path) -> Evaluation:
        """Read a file that `to_json` made. Raises `EvaluationError`."""
        try:
            content = json.loads(file.read_bytes())
        except OSError as error:
            raise EvaluationError(
                f"{file} cannot be read ({error.strerror}); give a file that --output wrote"
            ) from None
        except ValueError:
            raise EvaluationError(f"{file} is no JSON; give a file that --output wrote") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise EvaluationError(f"{file} is no measurement of this version; measure again with --output {file}")
        try:
            cells = {(entry["way"], entry["family"]): _cell(entry) for entry in content["cells"]}
            steps = tuple(FirstStep(**entry) for entry in content["first_steps"])
            record = cls({key: content[key] for key in HEADER}, cells, steps)
            complete = {(way, family) for way in range(len(record.labels)) for family in record.families}
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"{file} is damaged ({error!r}); measure again") from None
        if cells.keys() != complete:
            raise EvaluationError(f"{file} is damaged (families or ways are missing); measure again")
        return record


HEADER = ("model", "checkpoint", "canvas_length", "device", "plan")


def _cell_lines(way: int, family: str, cell: Cell, answers: bool) -> str:
    """A cell as one line of JSON."""
    columns: dict[str, Any] = {
        "way": way,
        "family": family,
        "seconds": round(cell.seconds, 3),
        "right": "".join("01"[outcome.right] for outcome in cell.outcomes),
    }
    for name in COLUMNS:
        columns[name] = [getattr(outcome, name) for outcome in cell.outcomes]
    if answers:
        columns["answers"] = [outcome.answer for outcome in cell.outcomes]
    return "  " + json.dumps(columns, ensure_ascii=False, separators=(",", ":"))


def _cell(entry: Mapping[str, Any]) -> Cell:
    right: str = entry["right"]
    answers: Sequence[str] = entry.get("answers") or [""] * len(right)
    rows = zip(right, *(entry[name] for name in COLUMNS), answers, strict=True)
    return Cell(tuple(PromptOutcome(mark == "1", *rest) for mark, *rest in rows), entry["seconds"])
