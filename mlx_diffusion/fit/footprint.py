"""How large each recipe makes a checkpoint, part by part, and what a run of it takes in memory.

Needs the names and shapes of the tensors alone. Sizes are those of the tensors that a conversion writes. Knows nothing
of arrays, sources or the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.config_json import read_field
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.pieces import pieces, sizes, written
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.checkpoint.text_tensors import text_tensors
from mlx_diffusion.checkpoint.vision_tensors import vision_tensors
from mlx_diffusion.fit.macs import MACS, Mac
from mlx_diffusion.fit.memory import GPU_ITEM, Memory, weight_bytes

CONTEXT = 32768  # tokens, for which the cache and a step's arrays are stated; no more than the model takes
SHORT_STEP = 256  # --prefill-step-size for the longest contexts: one canvas's worth


@dataclass(frozen=True)
class Sizes:
    """One recipe: bytes on disk by part, and what a run takes in memory."""

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


def sizes_of(config: ModelConfig, tensors: Iterable[Tensor], recipe: Recipe, item_bytes: int = GPU_ITEM) -> Sizes:
    """The figures of one recipe, for activations of that many bytes."""
    made = pieces(tensors, recipe)
    return Sizes(recipe.name, sizes(made), Memory(config, weight_bytes(written(made), item_bytes), item_bytes))


def stated_context(config: ModelConfig) -> int:
    return min(CONTEXT, config.max_position_embeddings)


def config_tensors(raw: Mapping[str, Any], config: ModelConfig) -> list[Tensor]:
    """All tensors that a config.json stands for; a checkpoint without vision_config has no tower."""
    text = text_tensors(config)
    if raw.get("vision_config") is None:
        return text
    return text + vision_tensors(read_field(raw, "vision_config", dict), config.hidden_size)


def context_text(context: int | None) -> str:
    """A context in thousands of 1,024 tokens, rounded down; "no" where nothing fits."""
    if context is None:
        return "no"
    return f"{context // 1024}K" if context >= 1024 else str(context)
