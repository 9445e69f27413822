"""Matrices as a format keeps them, unpacked again, and the error of doing so. Knows nothing of models or files."""

from __future__ import annotations

import mlx.core as mx

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import packed, unpacked
from mlx_diffusion.device import transposed


def rounded(weight: mx.array, spec: QuantSpec) -> mx.array:
    """Matrices [..., out, in] as the converter would write them, unpacked again: one expert's at a time."""
    single = [_rounded(matrix, spec) for matrix in weight.reshape(-1, *weight.shape[-2:])]
    made = transposed(mx.stack(single).reshape(weight.shape)).swapaxes(-1, -2)
    mx.eval(made)
    return made


def _rounded(matrix: mx.array, spec: QuantSpec) -> mx.array:
    bits, scales, *biases = packed(matrix.astype(mx.bfloat16), spec)
    scales = scales.astype(matrix.dtype) if biases else scales
    offsets = biases[0].astype(matrix.dtype) if biases else None
    plain = unpacked(bits, scales, offsets, spec, matrix.dtype)
    mx.eval(plain)
    return plain


def relative_error(weight: mx.array, spec: QuantSpec) -> float:
    """The squared error of matrices [..., out, in] in a format, as a share of their squares."""
    error = total = 0.0
    for matrix in weight.reshape(-1, *weight.shape[-2:]):  # one expert at a time
        own = matrix.astype(mx.float32)
        error += float(mx.square(_rounded(matrix, spec).astype(mx.float32) - own).sum())
        total += float(mx.square(own).sum())
    return error / total if total else 0.0
