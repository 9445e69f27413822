"""What a CPU wants otherwise than a GPU: the type of activations, and how a right operand lies in memory.

Knows nothing of what is computed.
"""

import mlx.core as mx


def on_cpu() -> bool:
    """Whether arrays are computed on a CPU."""
    return mx.default_device() == mx.Device(mx.cpu)


def activation_dtype() -> mx.Dtype:
    """float32 on a CPU, whose bf16 kernels accumulate in bf16; bfloat16 on a GPU."""
    return mx.float32 if on_cpu() else mx.bfloat16


def transposed(matrix: mx.array) -> mx.array:
    """[..., N, K] as a right operand, [..., K, N]: a view, but on a CPU its rows always lie in one piece.

    MLX's products on a CPU come from a BLAS that is 1.5 to 2.5 times slower on such a view, to the same bits; Metal and
    CUDA read both alike.
    """
    view = matrix.swapaxes(-1, -2)
    return mx.contiguous(view) if on_cpu() else view
