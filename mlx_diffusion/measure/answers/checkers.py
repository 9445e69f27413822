"""Named checks of answers for suites of the user's own, which choose them in JSON instead of running code.

Every checker is a plain function of the answer and of the arguments that stand in the suite's file. Knows nothing of
files or of prompts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mlx_diffusion.json_files import bounded_json

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
EMPTY = ("0", ".", "_")  # an empty cell of a Sudoku's clues


def contains(text: str, *, part: str) -> bool:
    """The part occurs in the answer."""
    return part in text


def number(text: str, *, value: float, tolerance: float = 0.0) -> bool:
    """The answer's last number is the value, or as near to it as the tolerance."""
    found = NUMBER.findall(text)
    return bool(found) and abs(float(found[-1].replace(",", "")) - value) <= tolerance


def json_value(text: str, *, value: Any) -> bool:
    """The answer is JSON and equals the value; keys may stand in any order."""
    try:
        return bool(bounded_json(text) == value)
    except ValueError:
        return False


def permutation(text: str, *, items: Sequence[str]) -> bool:
    """The items, each once, in any order."""
    return Counter(text.split()) == Counter(items)


def insertion(text: str, *, items: Sequence[str], item: str) -> bool:
    """The items in their order with the one item somewhere between them."""
    words = text.split()
    return len(words) == len(items) + 1 and any(words == [*items[:i], item, *items[i:]] for i in range(len(items) + 1))


def removal(text: str, *, items: Sequence[str]) -> bool:
    """The items in their order, one of them missing."""
    words = text.split()
    return len(words) == len(items) - 1 and any(words == [*items[:i], *items[i + 1 :]] for i in range(len(items)))


def replacement(text: str, *, items: Sequence[str], item: str) -> bool:
    """The items in their order, one of them replaced with the one item."""
    words = text.split()
    return len(words) == len(items) and any(words == [*items[:i], item, *items[i + 1 :]] for i in range(len(items)))


def latin(text: str, *, items: Sequence[str]) -> bool:
    """A square, one row a line, in which each item stands once in every row and column."""
    return _is_latin(_rows(text), items)


def sudoku(text: str, *, clues: Sequence[str]) -> bool:
    """A solved Sudoku of 4×4 or 9×9 digits that keeps the clues, of which each row is a string with EMPTY cells."""
    rows, given = _rows(text), [cells(row) for row in clues]
    size = len(given)
    box = round(size**0.5)
    digits = [str(n + 1) for n in range(size)]
    if not _is_latin(rows, digits):
        return False
    kept = all(
        clue in EMPTY or cell == clue
        for row, clue_row in zip(rows, given, strict=True)
        for cell, clue in zip(row, clue_row, strict=True)
    )
    boxes = (
        {rows[r + i][c + j] for i in range(box) for j in range(box)}
        for r in range(0, size, box)
        for c in range(0, size, box)
    )
    return kept and all(len(found) == size for found in boxes)


def cells(line: str) -> list[str]:
    """The cells of a row: its words, or its characters where it has no spaces."""
    return line.split() if " " in line.strip() else list(line.strip())


def _rows(text: str) -> list[list[str]]:
    return [cells(line) for line in text.splitlines() if line.strip()]


def _is_latin(rows: Sequence[Sequence[str]], items: Sequence[str]) -> bool:
    wanted = sorted(items)
    if len(rows) != len(wanted) or any(sorted(row) != wanted for row in rows):
        return False
    return all(sorted(column) == wanted for column in zip(*rows, strict=True))


CHECKERS: Mapping[str, Callable[..., bool]] = MappingProxyType(
    {
        "contains": contains,
        "number": number,
        "json": json_value,
        "permutation": permutation,
        "insertion": insertion,
        "removal": removal,
        "replacement": replacement,
        "latin": latin,
        "sudoku": sudoku,
    }
)
