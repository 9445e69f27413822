"""Matrices as a format keeps them, unpacked again, and the error of doing so. Knows nothing of models or files."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import packed, unpacked
from mlx_diffusion.device import transposed

AT_ONCE = 2**19  # numbers: fitting them takes 70 bytes each, and no rows need each other


def rounded(weight: mx.array, spec: QuantSpec) -> mx.array:
    """Matrices [..., out, in] as the converter would write them, unpacked again: some rows at a time."""
    plain = [_rounded(rows, spec) for rows in _some_rows(weight)]
    made = transposed(mx.concatenate(plain).reshape(weight.shape)).swapaxes(-1, -2)
    mx.eval(made)
    return made


def relative_error(weight: mx.array, spec: QuantSpec) -> float:
    """The squared error of matrices [..., out, in] in a format, as a share of their squares."""
    error = total = 0.0
    for rows in _some_rows(weight):
        own = rows.astype(mx.float32)
        error += float(mx.square(_rounded(rows, spec).astype(mx.float32) - own).sum())
        total += float(mx.square(own).sum())
    return error / total if total else 0.0


def _some_rows(weight: mx.array) -> Iterator[mx.array]:
    """All rows [rows, in], as many at a time as are rounded at once."""
    width = weight.shape[-1]
    rows, step = weight.reshape(-1, width), max(1, AT_ONCE // width)
    for first in range(0, len(rows), step):
        yield rows[first : first + step]


def _rounded(rows: mx.array, spec: QuantSpec) -> mx.array:
    bits, scales, *biases = packed(rows.astype(mx.bfloat16), spec)
    scales = scales.astype(rows.dtype) if biases else scales
    offsets = biases[0].astype(rows.dtype) if biases else None
    plain = unpacked(bits, scales, offsets, spec, rows.dtype)
    mx.eval(plain)
    return plain
