"""A checkpoint as its config.json and the headers of its files describe it, checked against each other.

Decided from these alone: whether it is one of DiffusionGemma, whole in size, and in what encoding. No weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import FIXED_MODES, NVFP4, Quantization, QuantSpec
from mlx_diffusion.checkpoint.headers import StoredTensor
from mlx_diffusion.checkpoint.layouts import check_claim, encodings, in_order, translated
from mlx_diffusion.checkpoint.redundant import without_copies
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.checkpoint.text_tensors import check_size


def described(
    raw: Mapping[str, Any], config: ModelConfig, stored: Sequence[StoredTensor], where: str
) -> tuple[ModelConfig, list[SourceTensor]]:
    """The config with the format that the tensors have, and the tensors. Raises CheckpointError.

    `raw` is config.json, and `config` what it says; `where` names the checkpoint.
    """
    check_size(config, stored, where)
    sources = in_order(without_copies(translated(stored, where), config, where), stored)
    check_claim(raw, sources, f"{where}/config.json")
    if config.quantization is None and NVFP4 in encodings(sources):
        config = replace(config, quantization=Quantization(QuantSpec(*FIXED_MODES["nvfp4"], "nvfp4")))
    return config, sources
