"""The tasks that the bundled checkpoint knows: generators with exact checkers, and a split held out by construction.

`FAMILIES` is the table of them all; `worded` asks them in words for other models. Nothing here knows of models, tokens
or files.
"""

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

from mlx_diffusion.measure.tasks import code, facts, lists, squares, stories
from mlx_diffusion.measure.tasks.task import Split, Task, draw, split_of

DETERMINISTIC: Mapping[str, Callable[[Random], Task]] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            lists.copy,
            lists.reverse,
            lists.sort,
            lists.insert_index,
            lists.remove_index,
            lists.replace_index,
            facts.addition,
            facts.to_words,
            facts.to_digits,
            facts.dates,
            facts.to_json,
            facts.from_json,
            facts.think,
            facts.tool,
            code.python,
            code.python_middle,
        )
    }
)
"""Families with one right token at every position."""

DEPENDENT: Mapping[str, Callable[[Random], Task]] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            lists.shuffle,
            lists.insert_random,
            lists.remove_random,
            lists.replace_random,
            squares.latin,
            squares.sudoku,
            stories.story,
        )
    }
)
"""Families whose positions depend on each other: several answers are right, and mixing two of them is wrong."""

FAMILIES: Mapping[str, Callable[[Random], Task]] = MappingProxyType({**DETERMINISTIC, **DEPENDENT})

__all__ = ["DEPENDENT", "DETERMINISTIC", "FAMILIES", "Split", "Task", "draw", "split_of"]
