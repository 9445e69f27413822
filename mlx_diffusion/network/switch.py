"""One linear layer for each expert, as one array [E, out, in] from which every row takes the matrix of its expert.

The parameters are named as in mlx-lm, whose quantised layer it becomes. Knows nothing of routers or activations.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class SwitchLinear(nn.Module):
    """E linear layers without bias."""

    def __init__(self, input_dims: int, output_dims: int, num_experts: int) -> None:
        super().__init__()
        bound = input_dims**-0.5
        self.weight = mx.random.uniform(-bound, bound, (num_experts, output_dims, input_dims))  # [E, out, in]

    @property
    def input_dims(self) -> int:
        return self.weight.shape[2]

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool = False) -> mx.array:
        """x [N, 1, in], the expert of each row int [N] -> [N, 1, out]; `sorted_indices`: experts are ascending."""
        weight = self["weight"].swapaxes(-1, -2)
        return mx.gather_mm(x, weight, rhs_indices=experts, sorted_indices=sorted_indices)

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> nn.Module:
        """The same layers in packed bits, for `nn.quantize`."""
        from mlx_lm.models.switch_layers import QuantizedSwitchLinear  # a second's work, which others need not wait for

        experts, output_dims, input_dims = self.weight.shape
        made = QuantizedSwitchLinear(input_dims, output_dims, experts, False, group_size, bits, mode)
        made.weight, made.scales, *biases = mx.quantize(self.weight, group_size, bits, mode=mode)
        made.biases = biases[0] if biases else None
        return made
