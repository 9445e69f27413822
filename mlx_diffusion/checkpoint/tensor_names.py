"""The names of a checkpoint's tensors on the Hub, and the part of the model that each belongs to.

Knows nothing of shapes, files or recipes.
"""

from __future__ import annotations

import re
from functools import cache

DECODER = "model.decoder."
EMBEDDINGS = f"{DECODER}embed_tokens.weight"
ROW_SCALE = "weight_scale_2"  # modelopt's and mlx-vlm's name for what NVFP4 multiplies by beside its groups' scales
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")

# Parts of the model and the names of their tensors; the first pattern that matches counts.
_PARTS = (
    ("experts", r"model\.decoder\..+\.experts\.(gate_up|down)_proj"),
    ("embeddings", r"model\.decoder\.embed_tokens\.weight"),
    ("attention", r"model\.decoder\..+\.self_attn\.[qkvo]_proj\.weight"),
    ("dense MLP", r"model\.decoder\..+\.mlp\.(gate|up|down)_proj\.weight"),
    ("router", r"model\.decoder\..+\.router\.proj\.weight"),
    ("self-conditioning", r"model\.decoder\.self_conditioning\.(gate|up|down)_proj\.weight"),
    ("norms and scalars", r"model\.(decoder|encoder\.language_model)\..+"),
    ("vision", r".+"),
)
PARTS = tuple(part for part, _ in _PARTS)
UNQUANTISED_PARTS = ("norms and scalars", "vision")  # bf16 in every recipe


@cache
def part_of(name: str) -> str:
    """The part of the model that a tensor belongs to, one of PARTS."""
    return next(part for part, pattern in _PARTS if re.fullmatch(pattern, name))


def module_of(name: str) -> str:
    """The path of a tensor's module, as config.json's quantization spells it."""
    return name.removesuffix(".weight")
