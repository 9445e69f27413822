"""The formats' own bounds: what MLX quantises stays within them, one step off does not; answers by hand."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint.formats import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES, QuantSpec
from mlx_diffusion.convert.format_bounds import _e4m3, allowed

SPECS = [QuantSpec(group, bits, "affine") for bits in AFFINE_BITS for group in AFFINE_GROUPS]
SPECS += [QuantSpec(*numbers, mode) for mode, numbers in FIXED_MODES.items()]


def restored(arrays: list[mx.array], spec: QuantSpec) -> mx.array:
    weight, scales, biases = (*arrays, None)[:3]
    assert weight is not None and scales is not None
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(weight, scales, biases, spec.group_size, spec.bits, mode=spec.mode, dtype=mx.float32)


def shares(rows: mx.array, arrays: list[mx.array], spec: QuantSpec) -> np.ndarray:
    """Error over bound of every element; nothing over nothing is 0."""
    exact, back = rows.astype(mx.float32), restored(arrays, spec)
    bound = np.array(allowed(exact, back, arrays, spec))
    error = np.abs(np.array(back - exact)).reshape(bound.shape)
    return np.where(bound < 0, np.inf, error.astype(np.float64) / np.maximum(bound, 2.0**-126))


def bf16(numbers: np.ndarray) -> mx.array:
    return mx.array(numbers.astype(np.float32)).astype(mx.bfloat16)


def quantised(rows: mx.array, spec: QuantSpec) -> list[mx.array]:
    return list(mx.quantize(rows, group_size=spec.group_size, bits=spec.bits, mode=spec.mode))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(-8, 3), spread=st.sampled_from([0.0, 1.0, 6.0]))
def test_what_mlx_quantises_stays_within(spec: QuantSpec, seed: int, scale: float, spread: float) -> None:
    """Of any magnitude, far from 0, with outliers, coarse numbers, or a wide range in one group."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((5, 8, 128))
    normal[1] += 3 / 10**scale
    normal[2, :, ::50] *= 100
    normal[3] = np.round(normal[3] * 2)
    normal[4] *= 10 ** rng.uniform(-spread, 0, normal[4].shape)
    rows = bf16(normal.reshape(40, 128) * 10**scale)
    assert shares(rows, quantised(rows, spec), spec).max() <= 1


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_bounds_are_nearly_reached(spec: QuantSpec) -> None:
    """So nothing is left to spare in them; an element of many bits rarely meets both its losses at once."""
    rows = bf16(np.random.default_rng(0).standard_normal((256, 128)))
    worst = shares(rows, quantised(rows, spec), spec).max()
    assert worst > (0.8 if spec.bits == 8 and spec.mode == "affine" else 0.95)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_another_number_is_outside(spec: QuantSpec) -> None:
    """A row's neighbour, in every format, and a group's scale that is twice as large."""
    rows = bf16(np.random.default_rng(1).standard_normal((16, 128)))
    arrays = quantised(rows, spec)
    moved = [mx.concatenate([array[1:], array[:1]]) for array in arrays]
    assert (shares(rows, moved, spec).reshape(16, -1).max(axis=1) > 1).all()
    weight, scales, *biases = arrays
    if spec.mode == "nvfp4":
        scales = scales + 8  # a power of two further
    elif spec.mode != "affine":
        scales = scales + 2  # the next power of two may be right
    else:
        scales = scales * 2
    assert (shares(rows, [weight, scales, *biases], spec).max(axis=-1) > 1).all()


def test_affine_by_hand() -> None:
    """Two bits, from 1 down in steps of a quarter: 1, 0.75, 0.5, 0.25; half a step, and 2^-8 of what q·s makes."""
    spec = QuantSpec(32, 2, "affine")
    rows = bf16(np.resize([1, 0.75, 0.5, 0.25], (1, 32)))
    weight, scales, biases = arrays = quantised(rows, spec)
    assert np.array(scales.astype(mx.float32)).item() == -0.25
    assert np.array(biases.astype(mx.float32)).item() == 1
    bound = np.array(allowed(rows.astype(mx.float32), restored(arrays, spec), arrays, spec))[0, 0, :4]
    by_hand = [0.125 * (1 + 2**-8) + 2**-8 * (0.25 * q) + 2**-22 * (1 + 1 - 0.25 * q) for q in range(4)]
    np.testing.assert_allclose(bound, by_hand, rtol=1e-6)
    # The end may be cut: 0.01 is beyond the last of the four points, and may be a whole step from it.
    exact = mx.array(np.resize([1, 0.75, 0.5, 0.01], (1, 32)).astype(np.float32))
    bound = np.array(allowed(exact, restored(arrays, spec), arrays, spec))[0, 0, 3]
    assert bound == pytest.approx(0.25 * (1 + 2**-8) + 2**-8 * 0.75, rel=1e-5)
    # A step that is wider than the range asks for is refused, whatever it restores.
    wide = [weight, scales * 4, biases]
    assert (np.array(allowed(rows.astype(mx.float32), restored(wide, spec), wide, spec)) == -1).all()


@pytest.mark.parametrize(
    ("value", "half"), [(0.0, 0.25), (1.9, 0.25), (2.5, 0.5), (3.9, 0.5), (4.5, 1.0), (6.0, 1.0), (7.0, 2.0)]
)
def test_e2m1_by_hand(value: float, half: float) -> None:
    """Half the distance of 0, 0.5, 1, 1.5, 2, 3, 4, 6 around a value; what is beyond 6 is cut to it."""
    spec = QuantSpec(32, 4, "mxfp4")
    exact = mx.array(np.resize(np.array([value, 7], np.float32), (1, 32)))
    arrays = [mx.zeros((1, 4), mx.uint32), mx.array([[127]], mx.uint8)]
    bound = np.array(allowed(exact, mx.zeros_like(exact), arrays, spec))[0, 0, 0]
    assert bound == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize(("value", "half"), [(0.0, 2**-10), (1.0, 2**-4), (1.9, 2**-4), (2.0, 2**-3), (447.0, 16.0)])
def test_e4m3_by_hand(value: float, half: float) -> None:
    spec = QuantSpec(32, 8, "mxfp8")
    exact = mx.array(np.resize(np.array([value, 448], np.float32), (1, 32)))
    arrays = [mx.zeros((1, 8), mx.uint32), mx.array([[127]], mx.uint8)]
    bound = np.array(allowed(exact, mx.zeros_like(exact), arrays, spec))[0, 0, 0]
    assert bound == pytest.approx(half + 2**-22 * value, rel=1e-6)


def test_the_codes_of_e4m3() -> None:
    table = _e4m3()
    assert [table[code] for code in (0, 1, 8, 0x38, 0x7E, 0xB8)] == [0, 2**-9, 2**-6, 1, 448, -1]
    assert math.isnan(table[0x7F]) and math.isnan(table[0xFF])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_zeros_must_be_restored_as_zeros(spec: QuantSpec) -> None:
    rows = bf16(np.zeros((1, 128)))
    weight, *others = quantised(rows, spec)
    assert shares(rows, [weight, *others], spec).max() == 0
    if spec.mode == "affine":
        others[1] = others[1] + 1
    else:
        weight, others[0] = weight + 0x11111111, others[0] * 0 + 0x38
    assert shares(rows, [weight, *others], spec).max() > 1
