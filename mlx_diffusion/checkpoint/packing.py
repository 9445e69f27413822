"""Rows and layers into MLX's own formats and back, in any number of groups.

On a CPU, MLX 0.32.4 packs and unpacks the groups of NVFP4 two by two, and refuses an odd number of them; its products
take any number, as all of it does in its other formats. Here another row stands in while the number is odd. Knows
nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.least_squares import fitted


def packed(weight: mx.array, spec: QuantSpec) -> list[mx.array]:
    """Weight, scales and (affine) biases of matrices [..., in], as MLX quantises them, or with fitted scales."""
    if spec.fitted:
        return fitted(weight, spec)
    made = mx.quantize(_even(weight, weight.size // spec.group_size, spec), spec.group_size, spec.bits, spec.mode)
    return [array[: len(weight)] for array in made]


def unpacked(
    weight: mx.array, scales: mx.array, biases: mx.array | None, spec: QuantSpec, dtype: mx.Dtype | None = mx.float32
) -> mx.array:
    """The numbers of packed matrices, [..., in], in a type; None: in that of affine scales, or in bf16."""
    even, factors = (_even(array, scales.size, spec) for array in (weight, scales))
    return mx.dequantize(even, factors, biases, spec.group_size, spec.bits, spec.mode, dtype=dtype)[: len(weight)]


def quantised_layer(layer: nn.Module, spec: QuantSpec) -> Any:
    """The quantised layer that MLX makes of one with a weight [..., in]."""
    weight = layer["weight"]
    layer.weight = _even(weight, weight.size // spec.group_size, spec)
    made = layer.to_quantized(spec.group_size, spec.bits, spec.mode)
    layer.weight = weight
    for name in ("weight", "scales"):
        if len(made[name]) > len(weight):
            made[name] = made[name][: len(weight)]
    return made


def quantise_layers(model: nn.Module, spec_of: Callable[[str, nn.Module], QuantSpec | None]) -> None:
    """Put a quantised layer in the place of each that has a format: as `nn.quantize` does."""

    def made(path: str, layer: nn.Module) -> Any:
        spec = spec_of(path, layer) if hasattr(layer, "to_quantized") else None
        return layer if spec is None else quantised_layer(layer, spec)

    model.update_modules(tree_map_with_path(made, model.leaf_modules(), is_leaf=nn.Module.is_module))


def _even(array: mx.array, groups: int, spec: QuantSpec) -> mx.array:
    """An array of some groups, with its first row or matrix once more where their number must be even and is odd."""
    return mx.concatenate([array, array[:1]]) if spec.mode == "nvfp4" and groups % 2 else array
