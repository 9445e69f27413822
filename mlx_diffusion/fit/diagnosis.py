"""The diagnosis of this machine: its facts, the downloaded checkpoints, and the published one in every recipe.

Knows nothing of the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.folder import DEMO, DEMO_FOLDER
from mlx_diffusion.checkpoint.hub_cache import CachedCheckpoint, cache_folder, cached_checkpoints, cached_snapshots
from mlx_diffusion.checkpoint.published import CONFIG, REPO_ID
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.checkpoint.speed import Levers, read_speed
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fit.advice import Advice, advise
from mlx_diffusion.fit.machine import Machine, this_machine
from mlx_diffusion.fit.recipe_fits import RecipeFit, recipe_fits, recommended, sizes_on
from mlx_diffusion.modes import SAFE_LEVERS, Mode


@dataclass(frozen=True)
class KnownLevers:
    """The levers that modes take on a checkpoint, and why they are not its own where they are not."""

    model: str
    modes: Mapping[Mode, Levers]
    reason: str | None  # None: a calibration of this very checkpoint found them

    @classmethod
    def of(cls, model: str, folder: Path) -> KnownLevers:
        try:
            found = read_speed(folder)
        except CheckpointError as error:
            return cls(model, SAFE_LEVERS, str(error))
        return cls(model, SAFE_LEVERS, "not calibrated") if found is None else cls(model, found, None)


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
    levers: Sequence[KnownLevers] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine.as_dict() | {"usable_bytes": self.machine.memory.usable_bytes},
            "hub_cache": {"folder": self.cache_folder, "checkpoints": [asdict(cached) for cached in self.cached]},
            "model": self.model,
            "recipes": {fit.recipe: asdict(fit) for fit in self.recipes},
            "recommended": self.recommended,
            "advice": None if self.advice is None else self.advice.as_dict(),
            "levers": [asdict(known) for known in self.levers],
        }


def diagnose() -> Diagnosis:
    """Look at this machine, the Hub's cache on it, and the published checkpoint in every recipe."""
    machine = this_machine()
    recipes = recipe_fits(sizes_on(machine.device, CONFIG), machine.memory.usable_bytes)
    best = recommended(recipes)
    advice = None if best is None or machine.device != "gpu" else advise(machine.chip, CONFIG, RECIPES[best])
    cached = cached_checkpoints()
    whole = {(one.repo_id, one.revision) for one in cached if one.whole}
    folders = {DEMO: DEMO_FOLDER}
    for repo_id in sorted({one.repo_id for one in cached}):
        snapshots = [folder for folder in cached_snapshots(repo_id) if (repo_id, folder.name) in whole]
        folders |= {f"{repo_id} {folder.name[:8]}": folder for folder in snapshots}
    levers = [KnownLevers.of(model, folder) for model, folder in folders.items()]
    return Diagnosis(machine, str(cache_folder()), cached, REPO_ID, recipes, best, advice, levers)
