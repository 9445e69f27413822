"""Matrices as a format keeps them, unpacked again, and the error of doing so. Knows nothing of models or files."""

from __future__ import annotations

import mlx.core as mx

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import packed, unpacked
from mlx_diffusion.device import transposed


def rounded(weight: mx.array, spec: QuantSpec) -> mx.array:
    """Matrices [..., out, in] as the converter would write them, unpacked again."""
    bits, scales, *biases = packed(weight.astype(mx.bfloat16), spec)
    scales = scales.astype(weight.dtype) if biases else scales
    offsets = biases[0].astype(weight.dtype) if biases else None
    plain = unpacked(bits, scales, offsets, spec, weight.dtype)
    made = transposed(plain).swapaxes(-1, -2)
    mx.eval(made)
    return made


def relative_error(weight: mx.array, spec: QuantSpec) -> float:
    """The squared error of matrices [..., out, in] in a format, as a share of their squares."""
    error = total = 0.0
    for matrix in weight.reshape(-1, *weight.shape[-2:]):  # one expert at a time
        own = matrix.astype(mx.float32)
        error += float(mx.square(rounded(matrix, spec).astype(mx.float32) - own).sum())
        total += float(mx.square(own).sum())
    return error / total if total else 0.0
