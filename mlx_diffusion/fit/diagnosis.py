"""The longest context of the published checkpoint on this machine in every recipe, and the recipe to take.

Knows nothing of the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.hub_cache import CachedCheckpoint, cache_folder, cached_checkpoints
from mlx_diffusion.checkpoint.published import CONFIG, REPO_ID
from mlx_diffusion.checkpoint.recipes import LADDER, RECIPES
from mlx_diffusion.fit.footprint import SHORT_STEP, RecipeSizes, config_tensors, sizes_of
from mlx_diffusion.fit.machine import Machine, this_machine
from mlx_diffusion.fit.memory import Memory, item_bytes_on

ENOUGH_CONTEXT = 8192  # tokens that must fit beside a recipe's weights for it to be recommended


@dataclass(frozen=True)
class RecipeFit:
    """One recipe on one machine; a context of None: it does not fit."""

    recipe: str
    total_bytes: int  # on disk
    weight_bytes: int  # in memory
    longest_context: int | None
    longest_context_short_steps: int | None


@dataclass(frozen=True)
class Diagnosis:
    machine: Machine
    cache_folder: str
    cached: Sequence[CachedCheckpoint]
    model: str
    recipes: Sequence[RecipeFit]
    recommended: str | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine.as_dict() | {"usable_bytes": self.machine.usable_bytes},
            "hub_cache": {"folder": self.cache_folder, "checkpoints": [asdict(cached) for cached in self.cached]},
            "model": self.model,
            "recipes": {fit.recipe: asdict(fit) for fit in self.recipes},
            "recommended": self.recommended,
        }


def diagnose() -> Diagnosis:
    """Look at this machine, the Hub's cache on it, and the published checkpoint in every recipe."""
    machine = this_machine()
    recipes = recipe_fits(sizes_on(machine.device, CONFIG), machine.usable_bytes)
    return Diagnosis(machine, str(cache_folder()), cached_checkpoints(), REPO_ID, recipes, recommended(recipes))


def sizes_on(device: str, raw: Mapping[str, Any]) -> list[RecipeSizes]:
    """The sizes of the checkpoint with this config.json in every recipe, the largest in memory first."""
    config = ModelConfig.from_dict(raw)
    tensors = config_tensors(raw, config)
    sized = [sizes_of(config, tensors, recipe, item_bytes_on(device)) for recipe in RECIPES.values()]
    return sorted(sized, key=lambda one: -one.memory.weight_bytes)


def recipe_fits(recipes: Sequence[RecipeSizes], usable_bytes: int | None) -> list[RecipeFit]:
    """The longest contexts of each recipe; None where it does not fit, or where the memory is unknown."""

    def longest(memory: Memory) -> int | None:
        return None if usable_bytes is None else memory.longest_context(usable_bytes)

    return [
        RecipeFit(
            one.recipe,
            one.total_bytes,
            one.memory.weight_bytes,
            longest(one.memory),
            longest(one.memory.in_steps_of(SHORT_STEP)),
        )
        for one in recipes
    ]


def recommended(recipes: Sequence[RecipeFit]) -> str | None:
    """The first recipe of the ladder that leaves enough memory for a context, else the first that fits at all."""
    contexts = {found.recipe: found.longest_context for found in recipes}
    for least in (ENOUGH_CONTEXT, 1):
        for name in LADDER:
            if (contexts[name] or 0) >= least:
                return name
    return None
