"""The size of a checkpoint in a recipe, part by part, and the memory that a run of it takes.

Computed from names and shapes alone: those of the tensors that a conversion would write. Knows nothing of arrays,
sources or the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.config_json import read_field
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.pieces import apply_recipe, bytes_by_part, written_tensors
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.checkpoint.text_tensors import text_tensors
from mlx_diffusion.checkpoint.vision_tensors import vision_tensors
from mlx_diffusion.fit.macs import MACS, Mac
from mlx_diffusion.fit.memory import GPU_ITEM, Memory, weight_bytes

CONTEXT = 32768  # tokens for which the cache and a step's arrays are stated, or the model's limit
SHORT_STEP = 256  # the --prefill-step-size with which the longest contexts fit


@dataclass(frozen=True)
class RecipeSizes:
    """A checkpoint in one recipe: bytes on disk by part, and the memory that a run takes."""

    recipe: str
    parts: Mapping[str, int]
    memory: Memory

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())

    def as_dict(self) -> dict[str, Any]:
        memory = self.memory
        context = stated_context(memory.config)
        return {
            "total_bytes": self.total_bytes,
            "parts": dict(self.parts),
            "weights_in_memory_bytes": memory.weight_bytes,
            "context": context,
            "cache_bytes": memory.cache_bytes(context),
            "step_bytes": memory.step_bytes(context),
            "macs": [self._on(mac) for mac in MACS],
        }

    def _on(self, mac: Mac) -> dict[str, Any]:
        shares = (mac.older_bytes, mac.newer_bytes)
        contexts = [self.memory.longest_context(share) for share in shares]
        return {
            "memory_gib": mac.memory_gib,
            "gpu_bytes": shares,
            "fits": [context is not None for context in contexts],
            "longest_context": contexts,
            "longest_context_short_steps": [self.memory.in_steps_of(SHORT_STEP).longest_context(s) for s in shares],
        }


def sizes_of(config: ModelConfig, tensors: Iterable[Tensor], recipe: Recipe, item_bytes: int = GPU_ITEM) -> RecipeSizes:
    """The sizes of a checkpoint with these tensors in a recipe; activations have `item_bytes` each."""
    made = apply_recipe(tensors, recipe)
    return RecipeSizes(
        recipe.name, bytes_by_part(made), Memory(config, weight_bytes(written_tensors(made), item_bytes), item_bytes)
    )


def stated_context(config: ModelConfig) -> int:
    return min(CONTEXT, config.max_position_embeddings)


def config_tensors(raw: Mapping[str, Any], config: ModelConfig) -> list[Tensor]:
    """All tensors of a checkpoint with this config.json; without vision_config it has no vision tower."""
    text = text_tensors(config)
    if raw.get("vision_config") is None:
        return text
    return text + vision_tensors(read_field(raw, "vision_config", dict), config.hidden_size)


def context_text(context: int | None) -> str:
    """A context in thousands of 1,024 tokens, rounded down; "no" where nothing fits."""
    if context is None:
        return "no"
    return f"{context // 1024}K" if context >= 1024 else str(context)
