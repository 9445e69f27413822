"""The plan of an evaluation: its prompts, and the variants of writing that each of them is run in.

A plan is settled before any work and written into every file of results, so that an interrupted run only goes on where
the plan is the same. Knows nothing of models and runs nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import OptionError
from mlx_diffusion.measure.answers.item import Item, digest_of
from mlx_diffusion.measure.answers.modes import MeasuredMode
from mlx_diffusion.measure.answers.suite_file import SUFFIX, read_suite
from mlx_diffusion.measure.answers.suites import ALL, DEFAULT_SUITES, draw_items, families_of
from mlx_diffusion.modes import MODES, MODES_WITH
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.typed_json import LARGEST_COUNT

DEFAULT_COUNT = 200  # prompts of each family
DEFAULT_MAX_TOKENS = 128  # the longest right answer of a bundled family, a story, has 108
DEFAULT_BATCH_SIZE = 1  # is part of the plan: with another default, earlier evaluations could not go on

WHOLE = (int, int | None)
SWEPT = {field.name: field.type for field in fields(Settings) if field.name != "seed" and field.type in (*WHOLE, float)}
"""The options that a sweep may vary, with their types: all that are numbers."""


@dataclass(frozen=True)
class Variant:
    """One way of running the prompts: a mode, and the options that differ from the checkpoint's."""

    mode: MeasuredMode
    options: tuple[tuple[str, float], ...] = ()

    @property
    def label(self) -> str:
        return " ".join([self.mode.name, *(f"{name}={value:g}" for name, value in self.options)])


@dataclass(frozen=True)
class EvaluationPlan:
    """All that decides the result of an evaluation, except the checkpoint."""

    items: Mapping[str, Sequence[Item]]  # family -> prompts
    variants: tuple[Variant, ...]
    seed: int
    max_tokens: int
    batch_size: int

    def batches(self) -> list[tuple[int, str, int]]:
        """(variant, family, first prompt) of every batch, family by family, so that all variants advance together."""
        return [
            (variant, family, start)
            for family, items in self.items.items()
            for variant in range(len(self.variants))
            for start in range(0, len(items), self.batch_size)
        ]

    def total_prompts(self) -> int:
        """The number of prompts that are run, over all variants."""
        return sum(map(len, self.items.values())) * len(self.variants)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON, with fingerprints in place of prompts."""
        return {
            "ways": [
                {"label": variant.label, "mode": variant.mode.name, "options": dict(variant.options)}
                for variant in self.variants
            ],
            "families": {
                family: {"prompts": len(items), "digest": digest_of(items)} for family, items in self.items.items()
            },
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "batch_size": self.batch_size,
        }


def make_plan(
    suites: Sequence[str] | None,
    *,
    count: int | None = None,
    modes: Sequence[str] | None = None,
    sweeps: Sequence[str] = (),
    seed: int = 0,
    max_tokens: int | None = None,
    batch_size: int | None = None,
) -> EvaluationPlan:
    """The plan of an evaluation; None stands for the default. Raises `OptionError`."""
    if seed >= LARGEST_COUNT:
        raise OptionError(f"--seed is {seed}; of an evaluation it must be below {LARGEST_COUNT}")
    variants = variants_of(modes or MODES[:1], sweeps)  # before prompts are drawn, which takes longer
    return EvaluationPlan(
        items=prompts_by_family(DEFAULT_SUITES if suites is None else suites, count, seed),
        variants=variants,
        seed=seed,
        max_tokens=max_tokens or DEFAULT_MAX_TOKENS,
        batch_size=batch_size or DEFAULT_BATCH_SIZE,
    )


def prompts_by_family(suites: Sequence[str], count: int | None, seed: int) -> dict[str, list[Item]]:
    """The prompts of these suites, families and files, by family.

    Every family gets `count` prompts, 200 where it is None, or all that it has if those are fewer. Raises `OptionError`
    for an unknown name, and for a family that is named by itself and has fewer than `count`.
    """
    files = [name for name in suites if name.endswith(SUFFIX)]
    found: dict[str, list[Item]] = {}
    for family in families_of(name for name in suites if name not in files):
        found[family] = draw_items(family, DEFAULT_COUNT if count is None else count, seed)
        if count is not None and len(found[family]) < count and family in suites:
            raise OptionError(f"{family} has {count_of(len(found[family]), 'held-out prompt')}; lower --count {count}")
    for name in files:
        for family, items in read_suite(Path(name)).items():
            if family in found:
                raise OptionError(f"--suite {name}: there is a family {family!r} already; rename one of them")
            found[family] = items[:count]
    return found


def seed_of(seed: int, family: str, index: int) -> int:
    """The seed of one prompt, with which `generate` alone gives the same answer.

    If prompts shared their randomness, their answers would be right and wrong together and intervals too narrow.
    """
    mixed = blake2b(f"{seed} {family} {index}".encode(), digest_size=4).digest()
    return int.from_bytes(mixed, "big")


def variants_of(modes: Sequence[str], sweeps: Sequence[str]) -> tuple[Variant, ...]:
    """Every mode with every combination of swept values that it has, without repeats; "all" is the library's modes.

    Raises `OptionError`, also for an option that none of the modes has.
    """
    named = [name for mode in modes for name in (MODES if mode == ALL else (mode,))]
    parsed = list(dict.fromkeys(MeasuredMode.parse(mode) for mode in named))
    swept = [parse_sweep(sweep) for sweep in sweeps]
    names = [name for name, _ in swept]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionError(f"--sweep {twice[0]} is given twice; list its values in one")
    choices = [[(name, value) for value in values] for name, values in swept]
    for name in names:
        if not any(mode.has(name) for mode in parsed):
            raise OptionError(f"--sweep {name}: no --mode has it; modes that have it: {', '.join(MODES_WITH[name])}")
    variants = (
        Variant(mode, tuple((name, value) for name, value in options if mode.has(name)))
        for mode in parsed
        for options in itertools.product(*choices)
    )
    return tuple(dict.fromkeys(variants))


def parse_sweep(text: str) -> tuple[str, list[float]]:
    """Read FIELD=V,V,…: a numeric option of a generation and its values. Raises `OptionError`."""
    name, equals, listed = text.partition("=")
    if name not in SWEPT or not equals:
        raise OptionError(f"--sweep {text!r} is no FIELD=V,V,...; the fields are {', '.join(SWEPT)}")
    values: list[float] = []
    for word in listed.split(","):
        try:
            value = int(word) if _is_whole(name) else float(word)
            GenerationConfig().override({name: value})
        except ValueError as error:
            reason = (
                error
                if isinstance(error, OptionError)
                else f"{word!r} is no {'whole number' if _is_whole(name) else 'number'}"
            )
            raise OptionError(f"--sweep {text!r}: {reason}") from None
        values.append(value)
    return name, list(dict.fromkeys(values))


def _is_whole(name: str) -> bool:
    """Whether an option takes whole numbers alone."""
    return SWEPT[name] in WHOLE
