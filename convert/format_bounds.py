"""The largest distance of a quantised value from its source, as it follows from the formats themselves.

Each element must be the point of its group's grid that rounding gives, and each group's scale the one that its values
require. Nothing here is measured or tuned:

affine, n = 2^bits − 1, scale s and bias b: MLX takes the end of larger magnitude as b, so b is a value of the source
and exact in bf16, and s = (b's distance from 0) / (a whole number of steps), at most range / (n − 1). An element is
b + q·s with q a rounded whole number: off by s/2 at most. Two things add to it. The scale is stored in bf16, off by
2^-8 of itself at most, which q multiplies. And fitting a whole number of steps between b and 0 can leave the other end
up to one step beyond q = n, where it is cut: such an element is off by s at most. A range of (almost) nothing has steps
of 1e-7, and up to 1.5e-7 where a whole number of them has to fit.

Fitted scales (see least_squares) are none that a range requires. A group is right, too, if its squared error is no
larger than MLX's own scale leaves it, and each element is the nearest point of the grid: off by s/2 at most, or by its
distance from the grid's end.

mxfp4, mxfp8, nvfp4: half the distance between neighbours of E2M1 (or E4M3) around the element, times the scale;
elements beyond the largest number are cut to it. The scale of a group should be t = largest magnitude / largest number:
of E8M0 either of the powers of two beside t (which one is the quantiser's choice), of nvfp4 the E4M3 nearest to t.

Quantisers and readers compute in float32, which adds a few roundings of the values themselves. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import packed, unpacked

BF16 = 2.0**-8  # the most that rounding to bf16 changes a number, relative to it
FLOAT32 = 2.0**-22  # the same of a few float32 operations
SUM = 2.0**-16  # the same of a sum over a group
EPSILON = 1.5e-7  # the largest affine step of a group whose range is next to nothing
TINY = 2.0**-126  # smallest normal float32
FLOAT32_EXPONENT = 0x7F800000
E2M1_LARGEST, E4M3_LARGEST = 6.0, 448.0
E4M3_HALF, E4M3_HALF_LEAST = 2.0**-4, 2.0**-10  # half a distance of E4M3: relative to the power of two below, at least


def _e4m3() -> np.ndarray:
    """The numbers of E4M3 by their code; codes of all ones are NaN."""
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    numbers = np.where(exponent == 0, fraction * 2.0**-9, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    return np.where(code & 127 == 127, np.nan, np.where(code & 128, -numbers, numbers))


def _e8m0() -> np.ndarray:
    """The numbers of E8M0 by their code: powers of two, and NaN."""
    return np.where(np.arange(256) == 255, np.nan, 2.0 ** (np.arange(256) - 127.0))


def allowed(exact: mx.array, restored: mx.array, arrays: Sequence[mx.array], spec: QuantSpec) -> mx.array:
    """The most that each element may be off: float32 [rows, groups, group size].

    exact and restored are float32 [rows, width]: the source in bf16, and what a reader makes of `arrays`, the
    converted rows (weight, scales, for affine biases). A group whose scale does not follow from its
    elements gets −1, which no error meets.
    """
    rows, width = exact.shape
    grouped = (rows, width // spec.group_size, spec.group_size)
    exact, restored = exact.reshape(grouped), restored.reshape(grouped)
    if spec.mode == "affine":
        scales, biases = (array.astype(mx.float32)[..., None] for array in arrays[1:])
        return _affine(exact, restored, scales, biases, spec)
    table = _e4m3() if spec.mode == "nvfp4" else _e8m0()
    return _fixed(exact, mx.array(table.astype(np.float32))[arrays[1]][..., None], spec)


def _affine(exact: mx.array, restored: mx.array, scales: mx.array, biases: mx.array, spec: QuantSpec) -> mx.array:
    last = 2**spec.bits - 1
    step, end = mx.abs(scales), biases + scales * last
    beyond = (exact - biases) / scales > last
    few = BF16 * mx.abs(restored - biases) + FLOAT32 * (mx.abs(biases) + mx.abs(exact))
    error = mx.where(beyond, step, 0.5 * step) * (1 + BF16) + few
    widest = (exact.max(axis=-1, keepdims=True) - exact.min(axis=-1, keepdims=True)) / (last - 1)
    required = mx.where(step <= mx.maximum(widest, EPSILON) * (1 + BF16), error, -1.0)
    outside = mx.maximum(mx.minimum(biases, end) - exact, exact - mx.maximum(biases, end))
    nearest = 0.5 * step + mx.maximum(outside, 0) + few
    least = _squares(_as_mlx_would(exact, spec) - exact)
    return mx.where(_squares(restored - exact) <= least * (1 + SUM), mx.maximum(nearest, required), required)


def _as_mlx_would(exact: mx.array, spec: QuantSpec) -> mx.array:
    """What MLX's own quantiser leaves of the source, float32 [rows, groups, group size]."""
    weight, *grid = packed(exact.reshape(exact.shape[0], -1).astype(mx.bfloat16), spec.stored)
    scales, biases = (one.astype(mx.float32) for one in grid)
    return unpacked(weight, scales, biases, spec).reshape(exact.shape)


def _squares(error: mx.array) -> mx.array:
    return mx.square(error).sum(axis=-1, keepdims=True)


def _fixed(exact: mx.array, scales: mx.array, spec: QuantSpec) -> mx.array:
    magnitude = mx.abs(exact)
    largest = E4M3_LARGEST if spec.mode == "mxfp8" else E2M1_LARGEST
    inside = mx.minimum(magnitude, largest * scales)
    if spec.mode == "mxfp8":
        power = ((inside / scales).view(mx.uint32) & FLOAT32_EXPONENT).view(mx.float32)  # the power of two below
        half = mx.maximum(power * E4M3_HALF, E4M3_HALF_LEAST) * scales
    else:  # E2M1 is 0, 0.5, 1, 1.5, 2, 3, 4, 6
        half = mx.where(inside < 2 * scales, 0.25, mx.where(inside < 4 * scales, 0.5, 1.0)) * scales
    error = half + (magnitude - inside) + FLOAT32 * magnitude
    wanted = magnitude.max(axis=-1, keepdims=True) / largest
    if spec.mode == "nvfp4":
        wanted = mx.minimum(wanted, E4M3_LARGEST)
        fits = mx.abs(scales - wanted) <= mx.maximum(wanted * E4M3_HALF, E4M3_HALF_LEAST) * (1 + FLOAT32)
    else:
        few = 1 + FLOAT32
        fits = (wanted < 2 * few * scales) & (scales < mx.maximum(2 * few * wanted, TINY))
    # Any scale does for a group of zeros; each of its elements must be restored as 0, and 0 is all that is allowed.
    return mx.where(wanted == 0, 0.0, mx.where(fits, error, -1.0))
