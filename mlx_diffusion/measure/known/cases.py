"""Gaps, forms and questions that training never saw, each with a check of what is found; and gaps from a user's file.

Drawn from a seed: a larger count begins with the same ones. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.measure.tasks import FAMILIES, draw, split_of
from mlx_diffusion.measure.tasks.facts import CITIES
from mlx_diffusion.measure.tasks.known_in_part import asked, gapped
from mlx_diffusion.regular_files import read_regular

MOST_BYTES = 64_000_000
RECORD = '{"name": "{name}", "age": {age}, "city": "{city}"}'
SLOTS = {"name": "text", "age": "integer", "city": list(CITIES)}


@dataclass(frozen=True)
class GapCase:
    """A text with one gap."""

    family: str
    before: str
    after: str
    context: str
    gap: str  # one that is right
    is_right: Callable[[str], bool]  # of a gap


@dataclass(frozen=True)
class FormCase:
    """A record to be filled in from a sentence."""

    context: str
    values: dict[str, object]


@dataclass(frozen=True)
class QuestionCase:
    """A question about a state, as `decide` takes it, and the number of the true answer."""

    state: str
    question: dict[str, object]
    answers: tuple[str, ...]
    true: int


def gap_cases(count: int, seed: int) -> list[GapCase]:
    """Gaps in right answers of all families that have some."""
    found, rng = list[GapCase](), Random(f"{seed} gaps")
    while len(found) < count:
        case = gapped(rng)
        if len(case.parts) == 2 and split_of(case.task.family, case.task.key) == "held_out":
            before, after = case.parts
            gap = case.task.answer[len(before) : len(case.task.answer) - len(after)]

            def is_right(
                text: str, whole: Callable[[str], bool] = case.task.is_right, sides: tuple[str, str] = (before, after)
            ) -> bool:
                return whole(sides[0] + text + sides[1])

            found.append(GapCase(case.task.family, before, after, case.context, gap, is_right))
    return found


def read_gaps(file: Path) -> list[GapCase]:
    """Gaps from lines of {"prompt": ..., "suffix": ..., "canonical_solution": ...}, as HumanEval-Infilling has them.

    Right is a gap that is the solution but for space at its ends and at the ends of its lines; no code is run. Raises
    `EvaluationError`, which names the line.
    """
    try:
        lines = read_regular(file, MOST_BYTES).decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{file} cannot be read ({error}); name a file of JSON lines") from None
    found = list(_read_lines(file, lines))
    if not found:
        raise EvaluationError(f"{file} has no gaps; write one JSON object a line")
    return found


def _read_lines(file: Path, lines: list[str]) -> Iterator[GapCase]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = bounded_json(line)
        except ValueError as error:
            raise EvaluationError(f"{file}, line {number}: no JSON ({error})") from None
        parts = [entry.get(name) if isinstance(entry, dict) else None for name in ("prompt", "suffix")]
        gap = entry.get("canonical_solution") if isinstance(entry, dict) else None
        if not all(isinstance(part, str) for part in (*parts, gap)):
            raise EvaluationError(f"{file}, line {number}: write prompt, suffix and canonical_solution, all text")

        def is_right(text: str, wanted: str = str(gap)) -> bool:
            return _bare(text) == _bare(wanted)

        yield GapCase(file.stem, str(parts[0]), str(parts[1]), "", str(gap), is_right)


def _bare(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]


def form_cases(count: int, seed: int) -> list[FormCase]:
    """Records that a sentence tells of."""
    rng = Random(f"{seed} forms")
    tasks = [draw(FAMILIES["to_json"], rng, "held_out") for _ in range(count)]
    return [FormCase(task.messages[-1]["content"], json.loads(task.answer)) for task in tasks]


def question_cases(count: int, seed: int) -> list[QuestionCase]:
    """Questions about records and lists; what some records leave out cannot be known."""
    found, rng = list[QuestionCase](), Random(f"{seed} questions")
    while len(found) < count:
        case = asked(rng)
        if split_of("questions", case.key) != "held_out":
            continue
        for (text, choices), true in zip(case.questions, case.true, strict=True):
            criteria: dict[str, str | None] = {
                choice.partition(":")[0]: choice.partition(": ")[2] or None for choice in choices
            }
            question: dict[str, object] = {"type": "choice", "instructions": text, "criteria": criteria}
            found.append(QuestionCase(case.state, question, tuple(criteria), true))
    return found[:count]
