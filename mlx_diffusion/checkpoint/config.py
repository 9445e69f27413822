"""The facts of a checkpoint in one frozen dataclass, checked once, never defaulted.

Knows nothing of how config.json spells them, of tensors, of files on disk or of a user's wishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.checkpoint.config_json import FULL, SLIDING, LayerType, Rope, read_config_json, require
from mlx_diffusion.checkpoint.formats import Quantization, read_quantization
from mlx_diffusion.errors import CheckpointError

__all__ = ["FULL", "SLIDING", "LayerType", "ModelConfig", "Rope"]

MOST_LAYERS = (
    1000  # far beyond any model; a file may say anything, and each costs time before its weights are looked for
)
LONGEST_CANVAS = 65_536


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one checkpoint. Letters: V D H K S E A F L as in the shape vocabulary."""

    vocab_size: int  # V
    hidden_size: int  # D
    intermediate_size: int
    moe_intermediate_size: int  # F
    num_attention_heads: int  # H
    num_key_value_heads: int  # K in sliding layers
    num_global_key_value_heads: int  # K in full layers
    head_dim: int  # S in sliding layers
    global_head_dim: int  # S in full layers
    num_experts: int  # E
    top_k_experts: int  # A
    sliding_window: int
    layer_types: tuple[LayerType, ...]
    rope: Mapping[LayerType, Rope]
    rms_norm_eps: float
    final_logit_softcapping: float
    max_position_embeddings: int
    canvas_length: int  # L
    pad_token_id: int
    bos_token_id: int | None
    eos_token_id: tuple[int, ...]
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads",
            "num_key_value_heads", "num_global_key_value_heads", "head_dim", "global_head_dim", "num_experts",
            "top_k_experts", "sliding_window", "max_position_embeddings", "canvas_length",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(
            self.num_hidden_layers <= MOST_LAYERS,
            "num_hidden_layers",
            self.num_hidden_layers,
            f"is beyond {MOST_LAYERS}",
        )
        most = min(self.max_position_embeddings, LONGEST_CANVAS)
        require(self.canvas_length <= most, "canvas_length", self.canvas_length, f"must be at most {most}")
        for name in ("head_dim", "global_head_dim"):
            require(getattr(self, name) % 2 == 0, name, getattr(self, name), "must be even, RoPE turns pairs")
        for name in ("num_key_value_heads", "num_global_key_value_heads"):
            require(
                self.num_attention_heads % getattr(self, name) == 0,
                name, getattr(self, name), f"must divide num_attention_heads = {self.num_attention_heads}",
            )  # fmt: skip
        require(
            self.top_k_experts <= self.num_experts,
            "top_k_experts", self.top_k_experts, f"must be at most num_experts = {self.num_experts}",
        )  # fmt: skip
        for name in ("rms_norm_eps", "final_logit_softcapping"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        tokens = {"pad_token_id": (self.pad_token_id,), "eos_token_id": self.eos_token_id}
        tokens["bos_token_id"] = () if self.bos_token_id is None else (self.bos_token_id,)
        for name, ids in tokens.items():
            for token in ids:
                require(0 <= token < self.vocab_size, name, token, f"must be below vocab_size = {self.vocab_size}")

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layer_types)

    def head_shape(self, layer_type: LayerType) -> tuple[int, int]:
        """(K, S) of a layer: its KV heads and head size."""
        if layer_type == SLIDING:
            return self.num_key_value_heads, self.head_dim
        return self.num_global_key_value_heads, self.global_head_dim

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Read config.json's dict; `where` names the file in errors (all of them CheckpointError)."""
        try:
            return cls(**read_config_json(raw), quantization=read_quantization(raw))
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from None
