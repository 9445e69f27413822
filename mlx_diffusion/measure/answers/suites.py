"""The suites of prompts: task families by name, and items drawn from them, all of the held-out split.

`SUITES` is the table. Prompts are drawn from a seed, each different from all others of its family, and by construction
none of them is in the training stream. Knows nothing of models or of files.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from random import Random
from types import MappingProxyType
from typing import Any

from mlx_diffusion.errors import OptionError
from mlx_diffusion.measure.answers.item import Item
from mlx_diffusion.measure.tasks import FAMILIES, Task, draw, split_of
from mlx_diffusion.measure.tasks.squares import sudoku_squares
from mlx_diffusion.measure.tasks.worded import WORDED, worded

SUITES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lists": tuple(
            "copy reverse sort shuffle insert_index insert_random remove_index remove_random replace_index "
            "replace_random".split()
        ),
        "squares": ("latin", "sudoku"),
        "numbers": ("addition", "to_words", "to_digits", "dates"),
        "records": ("to_json", "from_json"),
        "code": ("python", "python_middle"),
        "stories": ("story",),
        "thinking": ("think",),
        "tools": ("tool",),
    }
)
"""Suites without common prompts; lists and squares are the task set of ParallelBench (arXiv 2510.04767)."""

RECORD = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{1,2} [A-Z][a-z]+ [0-9]{4}|[0-9]{2}/[0-9]{2}/[0-9]{4}"
HELD: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "held-to_json": ("to_json", {"json_schema": RECORD}),
        "held-dates": ("dates", {"regex": DATE}),
        "held-addition": ("addition", {"regex": "[0-9]+"}),
    }
)
"""The suite `schema`: prompts of a plain family, with answers that a constraint holds."""

SCHEMA = "schema"
DEFAULT_SUITES = ("lists", "squares")
ALL = "all"
WORDED_PREFIX = "worded-"  # ahead of a suite or family: the same prompts in words that any model understands
FRUITLESS_DRAWS = 3000  # after so many repeats in a row a family is taken to have no further prompt


def families_of(names: Iterable[str]) -> list[str]:
    """The families that these names of suites and of single families stand for, in the order of `all_families`.

    Raises `OptionError` for an unknown name.
    """
    chosen = {family for name in names for family in _families(name)}
    return [family for family in all_families() if family in chosen]


def all_families() -> list[str]:
    """Every family, worded and constrained ones last."""
    plain = [family for families in SUITES.values() for family in families]
    return [*plain, *(WORDED_PREFIX + family for family in plain if family in WORDED), *HELD]


def suite_names() -> list[str]:
    """Every name of a suite."""
    with_wording = [name for name, families in SUITES.items() if set(families) & WORDED.keys()]
    return [*SUITES, ALL, SCHEMA, *(WORDED_PREFIX + name for name in with_wording)]


def _families(name: str) -> list[str]:
    if name == ALL:
        return [family for families in SUITES.values() for family in families]
    if name == SCHEMA:
        return list(HELD)
    if name in SUITES:
        return list(SUITES[name])
    bare = name.removeprefix(WORDED_PREFIX)
    if bare != name and bare in SUITES and set(SUITES[bare]) & WORDED.keys():
        return [WORDED_PREFIX + family for family in SUITES[bare] if family in WORDED]
    if name in all_families():
        return [name]
    near = difflib.get_close_matches(name, [*suite_names(), *all_families()], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? There" if near else "there"
    raise OptionError(
        f"unknown suite {name!r}; {hint} are {', '.join(suite_names())}, every single family, and FILE.jsonl"
    )


def draw_items(family: str, count: int, seed: int) -> list[Item]:
    """`count` different held-out prompts of a family, or all that it has; a larger count begins with the same ones."""
    plain, constraint = HELD.get(family, (family, None))
    bare = plain.removeprefix(WORDED_PREFIX)
    rng = Random(f"{seed} {bare}")
    items: dict[str, Item] = {}
    fruitless = 0
    while len(items) < count and fruitless < FRUITLESS_DRAWS:
        task = draw(FAMILIES[bare], rng, "held_out")
        if bare == "sudoku" and _may_be_trained_on(task):
            continue
        length = len(task.answer.split()) if bare == "shuffle" else None
        item = Item.of(worded(task) if bare != plain else task, length)
        if constraint is not None:
            item = replace(item, family=family, constraint=constraint)
        fruitless = fruitless + 1 if item.digest() in items else 0
        items.setdefault(item.digest(), item)
    return list(items.values())


def _may_be_trained_on(sudoku: Task) -> bool:
    """Whether a solution of the training split fits the clues too, so that training may have had the same prompt."""
    return any(sudoku.is_right(text) for text in _trained_solutions())


@cache
def _trained_solutions() -> tuple[str, ...]:
    texts = ("\n".join("".join(str(cell + 1) for cell in row) for row in square) for square in sudoku_squares())
    return tuple(text for text in texts if split_of("sudoku", text) == "train")
