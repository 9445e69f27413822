"""Habits that keep code and texts readable: one meaning a class name, sizes that one can take in, counts in words."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import pytest
from house import MODULES

from mlx_diffusion.display import count_of

COUNTED = (
    "blocks bytes canvases entries experts families files layers lines numbers outcomes passes positions prompts "
    "requests seconds steps tensors tokens ways weights workers"
)
MANY = re.compile(rf" (?:(?:weight|drafted|denoising|held-out) )?(?:{'|'.join(COUNTED.split())})\b(?![/=])")
LONGEST_FUNCTION, LONGEST_FILE = 60, 250  # lines


def trees() -> Iterator[tuple[str, str, ast.Module]]:
    """Name, text and syntax of every module."""
    for name, file in MODULES.items():
        text = file.read_text(encoding="utf-8")
        yield name, text, ast.parse(text)


def test_a_class_name_stands_for_one_thing() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for name, _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    assert not {name: found for name, found in homes.items() if len(found) > 1}


def test_functions_and_files_are_short() -> None:
    long = []
    for name, text, tree in trees():
        lines = len(text.splitlines())
        if lines > LONGEST_FILE:
            long.append(f"{name} has {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{name}.{node.name} has {lines} lines")
    assert not long


def test_one_of_a_thing_is_not_written_as_many() -> None:
    """`count_of` knows singulars; constants may stand before a plural, and what is a word, or never one."""
    found = []
    for name, _, tree in trees():
        for text in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
            for value, after in pairwise(text.values):
                plural = isinstance(after, ast.Constant) and MANY.match(str(after.value))
                if plural and isinstance(value, ast.FormattedValue) and not ast.unparse(value.value).isupper():
                    found.append(f"{name}: {ast.unparse(value.value)}{plural[0]}")
    assert sorted(found) == [
        "mlx_diffusion.convert.verify: error.canvases canvases",
        "mlx_diffusion.fit.verdict: self.copies workers",
        "mlx_diffusion.regular_files: most bytes",
    ]


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "pass", "1 pass"), (2, "pass", "2 passes"), (0, "step", "0 steps"), (1234, "entry", "1,234 entries"),
        (2, "way", "2 ways"), (3, "weight file", "3 weight files"), (1, "canvas", "1 canvas"),
        (9, "canvas", "9 canvases"),
    ],
)  # fmt: skip
def test_counts_in_words(number: int, noun: str, text: str) -> None:
    assert count_of(number, noun) == text
