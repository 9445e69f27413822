"""A plan from what a user asks for by name: suites, modes and sweeps, with defaults for what is left out.

Knows nothing of models and runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_diffusion.errors import OptionError
from mlx_diffusion.measure.answers.item import Item
from mlx_diffusion.measure.answers.plan import EvaluationPlan, variants_of
from mlx_diffusion.measure.answers.suite_file import SUFFIX, read_suite
from mlx_diffusion.measure.answers.suites import DEFAULT_SUITES, draw_items, families_of
from mlx_diffusion.options import MODES

DEFAULT_COUNT = 200
DEFAULT_MAX_TOKENS = 128  # the longest right answer of a bundled family, a story, has 108
DEFAULT_BATCH_SIZE = 1  # a larger batch also computes rows that have ended, and is no faster on a CPU


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
    return EvaluationPlan(
        items=prompts_by_family(DEFAULT_SUITES if suites is None else suites, count, seed),
        variants=variants_of(modes or MODES[:1], sweeps),
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
            raise OptionError(f"{family} has {len(found[family])} held-out prompts; lower --count {count}")
    for name in files:
        for family, items in read_suite(Path(name)).items():
            if family in found:
                raise OptionError(f"--suite {name}: there is a family {family!r} already; rename one of them")
            found[family] = items[:count]
    return found
