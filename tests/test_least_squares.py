"""Fitted scales: never worse than MLX's own, read by MLX as any others, and found out where they are wrong."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import write_source
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import AFFINE_BITS, AFFINE_GROUPS, QuantSpec
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.least_squares import in_words
from mlx_diffusion.checkpoint.packing import packed, unpacked
from mlx_diffusion.checkpoint.pieces import apply_recipe, quantization_table
from mlx_diffusion.checkpoint.recipes import Recipe, parse_rule
from mlx_diffusion.convert import convert
from mlx_diffusion.convert.format_bounds import allowed
from mlx_diffusion.convert.record import record_of
from mlx_diffusion.errors import CheckpointError

NUMBERS = st.floats(-8192, 8192, width=32) | st.floats(-(2**-12), 2**-12, width=32) | st.sampled_from([1e18, -1e18])


def squared_errors(weight: mx.array, spec: QuantSpec) -> np.ndarray:
    """Of each group, as readers see it: float64 [groups]."""
    bits, scales, biases = packed(weight, spec)
    plain = unpacked(bits, scales.astype(mx.float32), biases.astype(mx.float32), spec)
    error = np.array(plain, np.float64) - np.array(weight.astype(mx.float32), np.float64)
    return np.square(error).reshape(-1, spec.group_size).sum(axis=-1)


@given(
    arrays(np.float32, (3, 128), elements=NUMBERS),
    st.sampled_from(AFFINE_BITS),
    st.sampled_from(AFFINE_GROUPS),
)
def test_no_group_is_worse_than_mlx_leaves_it(numbers: np.ndarray, bits: int, group_size: int) -> None:
    weight = mx.array(numbers).astype(mx.bfloat16)
    own, fitted = (squared_errors(weight, QuantSpec(group_size, bits, "affine", fitted)) for fitted in (False, True))
    assert (fitted <= own * (1 + 1e-5)).all()


@pytest.mark.parametrize(("bits", "share"), [(2, 0.75), (3, 0.8), (4, 0.87), (6, 0.88), (8, 0.6)])
def test_normal_numbers_have_much_smaller_errors(bits: int, share: float) -> None:
    weight = mx.random.normal((32, 256), key=mx.random.key(bits)).astype(mx.bfloat16)
    own, fitted = (squared_errors(weight, QuantSpec(64, bits, "affine", fitted)).sum() for fitted in (False, True))
    assert fitted < share * own


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_words_are_those_that_mlx_reads(bits: int) -> None:
    numbers = mx.random.randint(0, 2**bits, (3, 64), key=mx.random.key(0))
    assert mx.array_equal(unpacked(in_words(numbers, bits), *_plain(), QuantSpec(32, bits, "affine")), numbers)


def _plain() -> tuple[mx.array, mx.array]:
    return mx.ones((3, 2)), mx.zeros((3, 2))


def test_a_folder_says_nothing_of_it_and_reads_as_any_other(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", layer_types=["full_attention"], num_hidden_layers=1)
    for name, rule in (("own", "*=4,64,affine"), ("fitted", "*=4,64,affine,fitted")):
        convert(source, tmp_path / name, "bf16", rules=[rule])
    own, fitted = (Checkpoint.open(tmp_path / name) for name in ("own", "fitted"))
    assert own.config == fitted.config
    shapes = [{name: (array.shape, array.dtype) for name, array in one.tensors().items()} for one in (own, fitted)]
    assert shapes[0] == shapes[1]
    name = "model.decoder.layers.0.mlp.up_proj.scales"
    assert not mx.array_equal(own.tensors()[name], fitted.tensors()[name])
    assert "4 bits, groups of 64, fitted" in (tmp_path / "fitted" / "README.md").read_text()


def test_only_affine_groups_can_be_fitted() -> None:
    with pytest.raises(CheckpointError, match="only affine formats can be fitted, mxfp4 cannot"):
        QuantSpec(32, 4, "mxfp4", fitted=True)


def test_a_grid_that_is_too_narrow_is_no_fitted_one() -> None:
    """Each number is at its nearest point, and many are beyond the ends."""
    spec = QuantSpec(64, 4, "affine")
    exact = mx.random.normal((1, 64), key=mx.random.key(0)).astype(mx.bfloat16).astype(mx.float32)
    scale, bias = mx.full((1, 1), 0.125), mx.full((1, 1), -0.9375)
    restored = bias + scale * mx.clip(mx.round((exact - bias) / scale), 0, 15)
    bound = allowed(exact, restored, [mx.zeros((1, 8), mx.uint32), scale, bias], spec)
    assert (mx.abs(restored - exact).reshape(bound.shape) > bound).any()


def test_a_recipe_that_differs_in_this_alone_is_another_with_the_same_table() -> None:
    """What was begun in one is not gone on with in the other; config.json is the same."""
    tensors = [Tensor(f"model.decoder.layers.0.mlp.{name}_proj.weight", "BF16", (64, 64)) for name in ("up", "down")]
    rules = [["*=4,64,affine"], ["*=4,64,affine", "*.up_proj=4,64,affine,fitted"]]
    made = [apply_recipe(tensors, Recipe("own", (), tuple(map(parse_rule, texts)))) for texts in rules]
    records = [record_of("label", None, [], [], "own", pieces, "command") for pieces in made]
    assert records[0] != records[1]
    assert quantization_table(made[0]) == quantization_table(made[1]) == {"group_size": 64, "bits": 4, "mode": "affine"}
