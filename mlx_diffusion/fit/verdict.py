"""Judges whether a run of a model fits a machine, in numbers, and names a recipe with which it would.

Uses sizes alone. Knows nothing of how a model is found, loaded or run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mlx_diffusion.checkpoint.recipes import LADDER, RECIPES
from mlx_diffusion.display import count_of, size_text
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fit.footprint import config_tensors, sizes_of
from mlx_diffusion.fit.machine_memory import MachineMemory
from mlx_diffusion.fit.memory import Memory

Warn = Callable[[str], None]  # is told one line


@dataclass(frozen=True)
class Verdict:
    """A run of a model on a machine: the memory it needs, the memory there is, and what would fit instead."""

    model: str
    memory: Memory  # of one copy
    context: int  # tokens
    copies: int  # of the model, each in a process of its own
    machine: MachineMemory
    recipe: str | None  # the first of the ladder with which the same run fits

    @property
    def needed_bytes(self) -> int:
        return self.copies * self.memory.total_bytes(self.context)

    @property
    def fits(self) -> bool:
        """True also where the machine's memory is unknown."""
        usable = self.machine.usable_bytes
        return usable is None or self.needed_bytes <= usable

    @property
    def can_run(self) -> bool:
        """A GPU cannot use more than its share of the memory; on a CPU a run may use all, though it will be slow."""
        if self.fits:
            return True
        return self.machine.device == "cpu" and self.needed_bytes <= (self.machine.memory_bytes or 0)

    @property
    def line(self) -> str:
        """One line that says what does not fit, and what would."""
        memory, context = self.memory, self.context
        times = f" in each of {self.copies} workers" if self.copies > 1 else ""
        needs = (
            f"{self.model} needs {size_text(self.needed_bytes)} with {count_of(context, 'token')}{times} (weights "
            f"{size_text(memory.weight_bytes)}, cache {size_text(memory.cache_bytes(context))}, a step's arrays "
            f"{size_text(memory.step_bytes(context))})"
        )
        usable = size_text(self.machine.usable_bytes or 0)
        if self.can_run:
            return f"{needs}; beyond {usable} this machine may have to swap; {self._remedy}"
        return f"{needs}, and this machine has {usable} for it; {self._remedy}"

    @property
    def _remedy(self) -> str:
        fewer = copies_that_fit(self.memory, self.context, self.machine)
        if fewer and fewer < self.copies:
            return f"--workers {fewer} would fit"
        return "no recipe fits here" if self.recipe is None else f"the recipe {self.recipe} would fit"

    def heed(self, warn: Warn) -> None:
        """Tell `warn` if the run will be slow; raise CheckpointError if it is impossible."""
        if not self.can_run:
            raise CheckpointError(self.line)
        if not self.fits:
            warn(self.line)


def judge(
    model: str, memory: Memory, context: int, machine: MachineMemory, raw: Mapping[str, Any], copies: int = 1
) -> Verdict:
    """Judge a run of `copies` of a model with `context` tokens each.

    `raw` is the model's config.json, from which its sizes in other recipes follow.
    """
    verdict = Verdict(model, memory, context, copies, machine, None)
    return verdict if verdict.fits else replace(verdict, recipe=_fitting_recipe(verdict, raw))


def copies_that_fit(memory: Memory, context: int, machine: MachineMemory) -> int | None:
    """The number of copies of a model that fit side by side; None where the machine's memory is unknown."""
    return None if machine.usable_bytes is None else machine.usable_bytes // memory.total_bytes(context)


def _fitting_recipe(verdict: Verdict, raw: Mapping[str, Any]) -> str | None:
    memory = verdict.memory
    for name in LADDER:
        with suppress(CheckpointError):  # recipes whose groups do not divide the rows of this model
            sized = sizes_of(memory.config, config_tensors(raw, memory.config), RECIPES[name], memory.item_bytes)
            if replace(verdict, memory=replace(memory, weight_bytes=sized.memory.weight_bytes)).fits:
                return name
    return None
