"""The results of an evaluation: one outcome for each prompt and variant, and the file that keeps them.

The file is one JSON object with a column for each figure, small enough for a repository. Knows nothing of models, of
statistics or of how an interrupted run goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.measure.answers.header import read_header
from mlx_diffusion.measure.answers.one_step_bound import FirstStep, check_first_step
from mlx_diffusion.measure.passes import Passes, check_passes, count_drafted, count_steps, denoised
from mlx_diffusion.regular_files import read_regular
from mlx_diffusion.typed_json import LARGEST_COUNT, from_json

FORMAT = "mlx-diffusion evaluation 1"
MOST_BYTES = 200_000_000  # of a file of results; 30,000 prompts with their answers have about 20 MB
COLUMNS = ("steps", "canvases", "limited", "tokens")
LATER_COLUMNS = {"prompt_tokens": None, "accepted": 0}  # with what stands for a column that is missing


@dataclass(frozen=True)
class PromptOutcome:
    """The result of one prompt in one variant."""

    right: bool
    steps: int  # denoising steps, over all canvases and drafts
    canvases: int  # that became text
    limited: int  # canvases that took as many steps as they may
    tokens: int  # written, the stop token included
    answer: str = ""
    prompt_tokens: int | None = None  # None: not recorded
    accepted: int = 0  # tokens of drafts with which the encoder agreed
    work: Passes | None = None  # None: canvases of the checkpoint's own length were denoised, and nothing else

    def all_work(self, canvas_length: int) -> Passes:
        """The passes behind the prompt; `canvas_length` is the checkpoint's."""
        return denoised(self.steps, self.canvases, canvas_length) if self.work is None else self.work


def check_outcomes(outcomes: Sequence[PromptOutcome], seconds: object, prompts: int) -> None:
    """Refuse what was read for so many prompts by a ValueError, unless it is whole, of the right kinds, and can be."""
    if len(outcomes) != prompts:
        raise ValueError(f"{count_of(len(outcomes), 'outcome')} of {count_of(prompts, 'prompt')}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValueError(f"seconds are {seconds!r}")
    for outcome in outcomes:
        counts = (outcome.steps, outcome.canvases, outcome.limited, outcome.tokens, outcome.accepted)
        kinds = isinstance(outcome.right, bool) and isinstance(outcome.answer, str)
        if not kinds or not all(type(count) is int and 0 <= count < LARGEST_COUNT for count in counts):
            raise ValueError("an outcome of the wrong kind")
        if outcome.canvases > outcome.steps or not outcome.tokens or outcome.limited > outcome.canvases:
            raise ValueError("an outcome whose counts cannot be")
        _check_passes(outcome)


def _check_passes(outcome: PromptOutcome) -> None:
    """Refuse passes that do not fit an outcome's counts by a ValueError."""
    if outcome.prompt_tokens is not None and not 0 < outcome.prompt_tokens < LARGEST_COUNT:
        raise ValueError("a prompt of no length")
    if outcome.work is None:
        if not outcome.canvases or outcome.accepted:
            raise ValueError("an outcome without passes")
        return
    check_passes(outcome.work)
    if count_steps(outcome.work) != outcome.steps or outcome.accepted > count_drafted(outcome.work):
        raise ValueError("passes that are not those of the outcome")


@dataclass(frozen=True)
class Cell:
    """The outcomes of one family run in one variant, in the order of its prompts."""

    outcomes: tuple[PromptOutcome, ...]
    seconds: float  # of work, summed over batches


@dataclass(frozen=True)
class _StoredCell:
    """A cell as it stands in a file: a column for each figure."""

    way: int
    family: str
    seconds: float
    right: str  # 1 for each right answer, 0 for a wrong one
    steps: Sequence[int]
    canvases: Sequence[int]
    limited: Sequence[int]
    tokens: Sequence[int]
    answers: Sequence[str] | None = None
    prompt_tokens: Sequence[int | None] | None = None
    accepted: Sequence[int] | None = None
    works: Sequence[Passes] = ()  # each that some prompt took, once
    work: Sequence[int | None] | None = None  # which of them

    def cell(self) -> Cell:
        """Raises ValueError where the columns are not of one length."""
        if set(self.right) - {"0", "1"}:
            raise ValueError("a mark that is neither right nor wrong")
        count = len(self.right)
        later = (self.answers or [""] * count, self.prompt_tokens or [None] * count)
        latest = (self.accepted or [0] * count, self._each_work())
        rows = zip(self.right, *(getattr(self, name) for name in COLUMNS), *later, *latest, strict=True)
        return Cell(tuple(PromptOutcome(mark == "1", *rest) for mark, *rest in rows), self.seconds)

    def _each_work(self) -> list[Passes | None]:
        """Of each prompt. Raises ValueError for a number that is none of `works`."""
        if self.work is None:
            return [None] * len(self.right)
        if any(number is not None and not 0 <= number < len(self.works) for number in self.work):
            raise ValueError("passes that are missing")
        return [None if number is None else self.works[number] for number in self.work]


@dataclass(frozen=True)
class Evaluation:
    """A whole evaluation. `header` has the keys of `HEADER`; its "plan" is what `EvaluationPlan.as_dict` gave.

    Variants are numbered in the plan's order.
    """

    header: Mapping[str, Any]
    cells: Mapping[tuple[int, str], Cell]  # by variant and family
    first_steps: tuple[FirstStep, ...] = ()

    @property
    def plan(self) -> Mapping[str, Any]:
        return self.header["plan"]

    @property
    def variants(self) -> Sequence[Mapping[str, Any]]:
        """The label, mode and options of each variant."""
        return self.plan["ways"]

    @property
    def labels(self) -> list[str]:
        """The names of the variants."""
        return [variant["label"] for variant in self.variants]

    @property
    def families(self) -> list[str]:
        return list(self.plan["families"])

    @property
    def canvas_length(self) -> int:
        return self.header["canvas_length"]

    def outcomes(self, variant: int) -> list[PromptOutcome]:
        """The outcomes of all families, in order."""
        return [outcome for family in self.families for outcome in self.cells[variant, family].outcomes]

    def seconds(self, variant: int) -> float:
        return sum(self.cells[variant, family].seconds for family in self.families)

    def to_json(self, answers: bool) -> str:
        """The file's content; with `answers`, it also holds what was written on every prompt."""
        cells = [_cell_line(variant, family, cell, answers) for (variant, family), cell in self.cells.items()]
        content = {"format": FORMAT, **self.header, "first_steps": [step.as_dict() for step in self.first_steps]}
        head = json.dumps(content, ensure_ascii=False, indent=1).removesuffix("\n}")
        return head + ',\n "cells": [\n' + ",\n".join(cells) + "\n ]\n}\n"

    @classmethod
    def read(cls, file: Path) -> Evaluation:
        """Read a file that `to_json` made. Raises `EvaluationError`."""
        content = read_results(file, FORMAT)
        try:
            header = read_header(content)
            stored = [from_json(_StoredCell, entry) for entry in content["cells"]]
            cells = {(entry.way, entry.family): entry.cell() for entry in stored}
            steps = tuple(from_json(FirstStep, entry) for entry in content["first_steps"])
            evaluation = cls(header, cells, steps)
            expected = {
                (variant, family) for variant in range(len(evaluation.labels)) for family in evaluation.families
            }
            if cells.keys() != expected or len(stored) != len(expected):
                raise ValueError("families or ways are missing, or twice")
            for (_, family), cell in cells.items():
                check_outcomes(cell.outcomes, cell.seconds, evaluation.plan["families"][family]["prompts"])
            for step in steps:
                check_first_step(step)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(file, str(error)[:100]) from None
        return evaluation


def read_results(file: Path, format: str) -> dict[str, Any]:
    """The JSON object in a file of results, which names its format. Raises `EvaluationError`."""
    try:
        content = bounded_json(read_regular(file, MOST_BYTES))
    except OSError as error:
        raise EvaluationError(f"{file} cannot be read ({error.strerror}); give a file that --output wrote") from None
    except ValueError:
        raise EvaluationError(f"{file} is no JSON; give a file that --output wrote") from None
    if not isinstance(content, dict) or content.get("format") != format:
        raise EvaluationError(f"{file} is no measurement of this version; measure again with --output {file}")
    return content


def damaged(file: Path, reason: str) -> EvaluationError:
    """The error for a file of results with parts missing or wrong."""
    return EvaluationError(f"{file} is damaged ({reason}); measure again")


def _cell_line(variant: int, family: str, cell: Cell, answers: bool) -> str:
    """A cell as one line of JSON."""
    columns: dict[str, Any] = {
        "way": variant,
        "family": family,
        "seconds": round(cell.seconds, 3),
        "right": "".join("01"[outcome.right] for outcome in cell.outcomes),
    }
    for name in COLUMNS:
        columns[name] = [getattr(outcome, name) for outcome in cell.outcomes]
    for name, missing in LATER_COLUMNS.items():
        column = [getattr(outcome, name) for outcome in cell.outcomes]
        if any(value != missing for value in column):
            columns[name] = column
    works = list(dict.fromkeys(outcome.work for outcome in cell.outcomes if outcome.work is not None))
    if works:
        number = {work: index for index, work in enumerate(works)}
        columns["works"] = works
        columns["work"] = [None if outcome.work is None else number[outcome.work] for outcome in cell.outcomes]
    if answers:
        columns["answers"] = [outcome.answer for outcome in cell.outcomes]
    return "  " + json.dumps(columns, ensure_ascii=False, separators=(",", ":"))
