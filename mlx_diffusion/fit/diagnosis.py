"""The diagnosis of this machine: its facts, the downloaded checkpoints, and the published one in every recipe.

Knows nothing of the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_diffusion.checkpoint.hub_cache import CachedCheckpoint, cache_folder, cached_checkpoints
from mlx_diffusion.checkpoint.published import CONFIG, REPO_ID
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.fit.advice import Advice, advise
from mlx_diffusion.fit.machine import Machine, this_machine
from mlx_diffusion.fit.recipe_fits import RecipeFit, recipe_fits, recommended, sizes_on


@dataclass(frozen=True)
class Diagnosis:
    """All that `mlx-diffusion doctor` says."""

    machine: Machine
    cache_folder: str
    cached: Sequence[CachedCheckpoint]
    model: str
    recipes: Sequence[RecipeFit]
    recommended: str | None  # recipe
    advice: Advice | None = None  # for this chip and that recipe

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine.as_dict() | {"usable_bytes": self.machine.memory.usable_bytes},
            "hub_cache": {"folder": self.cache_folder, "checkpoints": [asdict(cached) for cached in self.cached]},
            "model": self.model,
            "recipes": {fit.recipe: asdict(fit) for fit in self.recipes},
            "recommended": self.recommended,
            "advice": None if self.advice is None else self.advice.as_dict(),
        }


def diagnose() -> Diagnosis:
    """Look at this machine, the Hub's cache on it, and the published checkpoint in every recipe."""
    machine = this_machine()
    recipes = recipe_fits(sizes_on(machine.device, CONFIG), machine.memory.usable_bytes)
    best = recommended(recipes)
    advice = None if best is None or machine.device != "gpu" else advise(machine.chip, CONFIG, RECIPES[best])
    return Diagnosis(machine, str(cache_folder()), cached_checkpoints(), REPO_ID, recipes, best, advice)
