"""Habits that keep the code readable: one meaning a class name, functions and files of a size that one can take in."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from house import MODULES

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
