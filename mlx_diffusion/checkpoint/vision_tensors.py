"""The vision tower's tensors, derived from the sizes in config.json, for a dry run without the files' headers.

The tower is Gemma 4's: names and shapes are those of Transformers' Gemma4VisionModel. Knows nothing of how it works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_diffusion.checkpoint.config_json import read_field
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.tensor_names import VISION

TOWER, PROJECTION = VISION
CHANNELS = 3
CLIPPED = ("input_min", "input_max", "output_min", "output_max")  # beside each matrix, where the config says so


def vision_tensors(vision: Mapping[str, Any], hidden_size: int) -> list[Tensor]:
    """The tower of a `vision_config` and its projection into a text model of this width. Raises CheckpointError."""
    width, inner, count, heads, kv_heads, head, patch, positions = (
        read_field(vision, name, int, "vision_config.")
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "patch_size", "position_embedding_size",
        )
    )  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        f"{TOWER}patch_embedder.input_proj.weight": (width, CHANNELS * patch**2),
        f"{TOWER}patch_embedder.position_embedding_table": (2, positions, width),
        f"{PROJECTION}embedding_projection.weight": (hidden_size, width),
    }
    if vision.get("standardize"):
        shapes |= {f"{TOWER}std_bias": (width,), f"{TOWER}std_scale": (width,)}
    matrices = {
        "self_attn.q_proj": (heads * head, width),
        "self_attn.k_proj": (kv_heads * head, width),
        "self_attn.v_proj": (kv_heads * head, width),
        "self_attn.o_proj": (width, heads * head),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    norms = {
        "self_attn.q_norm": head,
        "self_attn.k_norm": head,
        "input_layernorm": width,
        "post_attention_layernorm": width,
        "pre_feedforward_layernorm": width,
        "post_feedforward_layernorm": width,
    }
    for i in range(count):
        layer = f"{TOWER}encoder.layers.{i}."
        for name, shape in matrices.items():
            shapes[f"{layer}{name}.linear.weight"] = shape
            if vision.get("use_clipped_linears"):
                shapes |= {f"{layer}{name}.{bound}": () for bound in CLIPPED}
        shapes |= {f"{layer}{name}.weight": (size,) for name, size in norms.items()}
    return [Tensor(name, "BF16", shape) for name, shape in shapes.items()]
