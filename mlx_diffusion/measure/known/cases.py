"""Gaps, forms and questions that training never saw, each with a check of what is found; and gaps from a user's file.

Drawn from a seed: a larger count begins with the same ones. Knows nothing of models.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.measure.tasks import FAMILIES, draw, split_of
from mlx_diffusion.measure.tasks.facts import CITIES
from mlx_diffusion.measure.tasks.known_in_part import Gapped, asked, gapped
from mlx_diffusion.measure.tasks.worded import WORDED, worded
from mlx_diffusion.regular_files import read_regular

MOST_BYTES = 64_000_000
GZIP = b"\x1f\x8b"
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
    return [_gap_case(case, case.context, case.task.is_right) for case in islice(_gapped(seed), count)]


def worded_gap_cases(count: int, seed: int) -> list[GapCase]:
    """Those of families that can be asked in words, as `worded` asks them."""
    found = (case for case in _gapped(seed) if case.task.family in WORDED)
    cases = []
    for case in islice(found, count):
        asked_in_words = worded(replace(case.task, messages=({"role": "user", "content": case.context},)))
        cases.append(_gap_case(case, asked_in_words.messages[-1]["content"], asked_in_words.is_right))
    return cases


def _gapped(seed: int) -> Iterator[Gapped]:
    """Texts with one gap that training never saw, without end."""
    rng = Random(f"{seed} gaps")
    while True:
        case = gapped(rng)
        if len(case.parts) == 2 and split_of(case.task.family, case.task.key) == "held_out":
            yield case


def _gap_case(case: Gapped, context: str, is_right: Callable[[str], bool]) -> GapCase:
    before, after = case.parts
    gap = case.task.answer[len(before) : len(case.task.answer) - len(after)]
    return GapCase(case.task.family, before, after, context, gap, lambda text: is_right(before + text + after))


def read_gaps(file: Path) -> list[GapCase]:
    """Gaps from lines of {"prompt": ..., "suffix": ..., "canonical_solution": ...}, as HumanEval-Infilling has them.

    The file may be packed with gzip; other fields (task_id, entry_point, test) are of no use here.
    Right is a gap that is the solution but for space at its ends and at the ends of its lines; no code is run. Raises
    `EvaluationError`, which names the line.
    """
    found = [_gap_of(entry, file, number) for number, entry in read_lines(file)]
    if not found:
        raise EvaluationError(f"{file} has no gaps; write one JSON object a line")
    return found


def read_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """The JSON of every line, with its number; the file may be packed with gzip. Raises `EvaluationError`."""
    try:
        lines = _unpacked(read_regular(file, MOST_BYTES)).decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError, zlib.error) as error:
        raise EvaluationError(f"{file} cannot be read ({error}); name a file of JSON lines") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, bounded_json(line)
            except ValueError as error:
                raise EvaluationError(f"{file}, line {number}: no JSON ({error})") from None


def _unpacked(content: bytes) -> bytes:
    """A file's bytes, those of a gzip file unpacked, as such benchmarks are published."""
    if not content.startswith(GZIP):
        return content
    unpacking = zlib.decompressobj(wbits=31)
    unpacked = unpacking.decompress(content, MOST_BYTES)
    if not unpacking.eof:
        raise OSError(f"it is cut off, or has more than {MOST_BYTES:,} bytes unpacked")
    return unpacked


def _gap_of(entry: Any, file: Path, number: int) -> GapCase:
    parts = [entry.get(name) if isinstance(entry, dict) else None for name in ("prompt", "suffix")]
    gap = entry.get("canonical_solution") if isinstance(entry, dict) else None
    if not all(isinstance(part, str) for part in (*parts, gap)):
        raise EvaluationError(f"{file}, line {number}: write prompt, suffix and canonical_solution, all text")
    wanted = _bare(str(gap))
    return GapCase(file.stem, str(parts[0]), str(parts[1]), "", str(gap), lambda text: _bare(text) == wanted)


def _bare(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]


def form_cases(count: int, seed: int) -> list[FormCase]:
    """Records that a sentence tells of."""
    rng = Random(f"{seed} forms")
    tasks = [draw(FAMILIES["to_json"], rng, "held_out") for _ in range(count)]
    return [FormCase(task.messages[-1]["content"], json.loads(task.answer)) for task in tasks]


def worded_form_cases(count: int, seed: int) -> list[FormCase]:
    """The same, asked for in words."""
    asks = "Write what is said here as JSON with the keys name, age and city:"
    return [replace(case, context=f"{asks} {_sentence(case.context)}") for case in form_cases(count, seed)]


def _sentence(context: str) -> str:
    return context.partition(": ")[2]


def worded_question_cases(count: int, seed: int) -> list[QuestionCase]:
    """Questions of which the state says what it is, where it is a bare list."""
    cases = question_cases(count, seed)
    return [case if case.state[-1] in ".}" else replace(case, state=f"A list: {case.state}") for case in cases]


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
