"""Every recipe of a checkpoint on a machine: the longest context that fits, and the recipe to take.

Knows nothing of what else the machine has or what is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.recipes import LADDER, RECIPES
from mlx_diffusion.fit.footprint import SHORT_STEP, RecipeSizes, config_tensors, sizes_of
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
