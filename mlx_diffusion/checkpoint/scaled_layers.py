"""Quantised layers with a scale for each row beside the groups' scales, as matrices have it that came in NVFP4.

MLX's own products take the groups' scales alone (a scale for all is known to its GPUs only), so their results are
multiplied by the rows' scales, in float32. Knows nothing of files.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion.checkpoint.formats import FIXED_MODES

GROUP_SIZE, BITS = FIXED_MODES["nvfp4"]


class ScaledLayer(nn.Module):
    """What both layers have: matrices [..., out, in] in NVFP4, by the names of MLX's own, and a scale for each row."""

    group_size, bits, mode = GROUP_SIZE, BITS, "nvfp4"

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.weight, self.scales = layer["weight"], layer["scales"]
        self.weight_scale_2 = mx.ones(self.weight.shape[:-1])
        self.freeze()


class ScaledLinear(ScaledLayer):
    """A linear layer in NVFP4: weight uint32 [out, in / 8], scales [out, in / 16], weight_scale_2 [out]."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., in] -> [..., out]."""
        y = mx.quantized_matmul(x, self.weight, self.scales, None, True, GROUP_SIZE, BITS, "nvfp4")
        return (y * self.weight_scale_2).astype(y.dtype)


class ScaledSwitchLinear(ScaledLayer):
    """The same for each expert: all arrays have a leading axis [E, …]."""

    @property
    def input_dims(self) -> int:
        return GROUP_SIZE * self.scales.shape[-1]

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool = False) -> mx.array:
        """x [N, 1, in], the expert of each row int [N] -> [N, 1, out]; `sorted_indices`: experts are ascending."""
        y = mx.gather_qmm(
            x, self.weight, self.scales, rhs_indices=experts, transpose=True, group_size=GROUP_SIZE, bits=BITS,
            mode="nvfp4", sorted_indices=sorted_indices,
        )  # fmt: skip
        return (y * self.weight_scale_2[experts][:, None]).astype(y.dtype)


def with_row_scales(layer: nn.Module) -> nn.Module:
    """A layer that MLX has quantised, with room for the rows' scales."""
    return ScaledLinear(layer) if layer["weight"].ndim == 2 else ScaledSwitchLinear(layer)
