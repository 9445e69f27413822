"""The tasks asked in words that any instruction-tuned model understands, with the same checks.

A wording says what is asked and exactly how to write the answer, for models that were not trained on the short form.
Its check only forgives what the wording leaves open, which each `normalise` says. Knows nothing of suites or models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from mlx_diffusion.measure.tasks.task import Task

WORDS = "Answer with nothing but the words, separated by single spaces, on one line."
GRID = "Answer with nothing but the grid: four lines of four digits separated by single spaces."


@dataclass(frozen=True)
class Wording:
    """A short prompt put into words, and how answers to it are normalised before the check."""

    pattern: str  # of the short prompt
    text: str  # of the worded one, with the pattern's groups
    normalise: Callable[[str], str] = str  # from any form that the wording leaves open to the one that is checked


def _number_words(text: str) -> str:
    """Ignores case, hyphens, commas, full stops and the word "and"."""
    words = re.sub(r"[-,.]", " ", text.lower()).split()
    return " ".join(word for word in words if word != "and")


def _digits(text: str) -> str:
    """Ignores commas between thousands."""
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)


def _grid(text: str) -> str:
    """Ignores space at the ends of lines, and empty lines."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _spaced(digits: str) -> str:
    return "\n".join(" ".join(line) for line in digits.splitlines())


WORDED: Mapping[str, Wording] = MappingProxyType(
    {
        "copy": Wording("Copy: (.+)", f"Repeat this list of words in the same order: {{}}\n{WORDS}"),
        "reverse": Wording("Reverse: (.+)", f"Write this list of words in reverse order: {{}}\n{WORDS}"),
        "sort": Wording("Sort: (.+)", f"Sort this list of words alphabetically: {{}}\n{WORDS}"),
        "shuffle": Wording(
            "Shuffle: (.+)", f"Write the words of this list in a random order, each exactly once: {{}}\n{WORDS}"
        ),
        "insert_index": Wording(
            r"Insert (\S+) at (\d+): (.+)",
            "Insert the word {0} into this list, so that it becomes word number {1} (counting from 1) and the others "
            f"keep their order: {{2}}\n{WORDS}",
        ),
        "insert_random": Wording(
            r"Insert (\S+) anywhere: (.+)",
            "Insert the word {0} into this list at a random place; the others keep their order: {1}\n" + WORDS,
        ),
        "remove_index": Wording(
            r"Remove item (\d+): (.+)",
            f"Remove word number {{0}} (counting from 1) from this list; the others keep their order: {{1}}\n{WORDS}",
        ),
        "remove_random": Wording(
            "Remove any item: (.+)",
            f"Remove one word, chosen at random, from this list; the others keep their order: {{}}\n{WORDS}",
        ),
        "replace_index": Wording(
            r"Replace item (\d+) with (\S+): (.+)",
            "Replace word number {0} (counting from 1) of this list with the word {1}; the others stay: {2}\n" + WORDS,
        ),
        "replace_random": Wording(
            r"Replace any item with (\S+): (.+)",
            f"Replace one word of this list, chosen at random, with the word {{0}}; the others stay: {{1}}\n{WORDS}",
        ),
        "latin": Wording(
            r"Latin square: (\d{4})",
            "Write a 4×4 Latin square of these four digits, so that each digit stands once in every row and once in "
            f"every column: {{}}\n{GRID}",
            _grid,
        ),
        "sudoku": Wording(
            r"Sudoku:\n([0-4\n]+)",
            "Fill in this 4×4 Sudoku, so that every row, every column and every 2×2 box holds the digits 1 to 4 once. "
            f"0 is an empty cell, the other digits stay.\n{{}}\n{GRID}",
            _grid,
        ),
        "addition": Wording(
            "Add: (.+)", "What is {}? Answer with nothing but the number, in digits and without a full stop.", _digits
        ),
        "to_words": Wording(
            r"In words: (\d+)",
            "Write the number {} in English words. Answer with nothing but the words.",
            _number_words,
        ),
        "to_digits": Wording(
            "In digits: (.+)", "Write this number in digits: {}\nAnswer with nothing but the digits.", _digits
        ),
    }
)


def worded(task: Task) -> Task:
    """The same task, asked in words; its family's name says so."""
    wording = WORDED[task.family]
    found = re.fullmatch(wording.pattern, task.messages[0]["content"])
    assert found is not None, f"the prompts of {task.family} have changed: {task.messages[0]['content']!r}"
    groups = [_spaced(group) if task.family in ("latin", "sudoku") else group for group in found.groups()]
    return replace(
        task,
        family=f"worded-{task.family}",
        messages=({"role": "user", "content": wording.text.format(*groups)},),
        check=lambda text: task.check(wording.normalise(text)),
    )
