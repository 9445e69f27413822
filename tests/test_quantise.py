"""Row by row is the same as the whole: MLX's own quantiser on whole tensors is the slow twin."""

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.headers import StoredTensor, Tensor, read_header, write_header
from mlx_diffusion.checkpoint.pieces import apply_recipe
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.convert import quantise
from mlx_diffusion.convert.quantise import chunks, transfer
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.measure.rounding import rounded

NAME = "model.decoder.layers.0.experts.gate_up_proj"
FORMATS = [
    *(QuantSpec(group, bits, "affine") for group in (32, 64, 128) for bits in (2, 3, 4, 5, 6, 8)),
    QuantSpec(32, 4, "mxfp4"), QuantSpec(32, 8, "mxfp8"), QuantSpec(16, 4, "nvfp4"), None,
]  # fmt: skip
TYPES = [mx.bfloat16, mx.float16, mx.float32]


def convert(folder: Path, array: mx.array, spec: QuantSpec | None, name: str = NAME) -> dict[str, mx.array]:
    """The array as the only tensor of a file, through all its chunks into another file, read by MLX."""
    source, target = folder / "source.safetensors", folder / "target.safetensors"
    mx.save_safetensors(str(source), {"first": mx.zeros(3, mx.uint8), name: array})
    (stored,) = (entry for entry in read_header(source) if entry.tensor.name == name)
    (piece,) = apply_recipe([stored.tensor], Recipe("", (("*", spec),)))
    header, starts = write_header(piece.written)
    target.write_bytes(header + bytes(piece.nbytes))
    with source.open("rb") as read, target.open("r+b") as written:
        for chunk in chunks(SourceTensor.plain(stored), piece, starts):
            transfer(chunk, {source.name: read.fileno()}, written.fileno())
    loaded = mx.load(str(target))
    assert isinstance(loaded, dict)
    return loaded


def random(shape: tuple[int, ...], dtype: mx.Dtype, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32)).astype(dtype)


def same_bits(one: mx.array, other: mx.array) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and np.asarray(one).tobytes() == np.asarray(other).tobytes()
    )


def whole(array: mx.array, spec: QuantSpec | None) -> list[mx.array]:
    array = array.astype(mx.bfloat16)
    if spec is None:
        return [array]
    twice = mx.concatenate([array, array])  # MLX fails at an odd number of NVFP4's groups
    made = mx.quantize(twice, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    return [one[: len(array)] for one in made]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("spec", FORMATS, ids=str)
def test_chunks_are_the_whole(
    spec: QuantSpec | None, dtype: mx.Dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "CHUNK_BYTES", 5000)
    array = random((3, 11, 256), dtype)
    array[1] = 0  # groups without a scale
    made = convert(tmp_path, array, spec)
    for result, suffix in zip(whole(array, spec), ("weight", "scales", "biases"), strict=False):
        written = made.pop(f"{NAME}.{suffix}")
        assert same_bits(written.view(mx.uint8), result.view(mx.uint8)), suffix
    assert not made


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([QuantSpec(32, 4, "affine"), QuantSpec(16, 4, "nvfp4")]),
    st.integers(1, 5), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4000), st.integers(0, 99),
)  # fmt: skip
def test_any_shape_and_any_chunk(
    tmp_path_factory: pytest.TempPathFactory,
    spec: QuantSpec,
    experts: int,
    rows: int,
    groups: int,
    chunk: int,
    seed: int,
) -> None:
    array = random((experts, rows, groups * spec.group_size), mx.bfloat16, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantise, "CHUNK_BYTES", chunk)
        made = convert(tmp_path_factory.mktemp("any"), array, spec)
    for result, suffix in zip(whole(array, spec), ("weight", "scales", "biases"), strict=False):
        assert same_bits(made[f"{NAME}.{suffix}"].view(mx.uint8), result.view(mx.uint8)), suffix


@pytest.mark.parametrize("shape", [(3, 5, 48), (1, 1, 16), (3, 7, 64)], ids=str)
def test_measurements_round_any_number_of_nvfp4s_groups(shape: tuple[int, ...]) -> None:
    spec, array = QuantSpec(16, 4, "nvfp4"), random(shape, mx.float32)
    twice = mx.concatenate([array, array])
    assert mx.array_equal(rounded(array, spec), rounded(twice, spec)[: len(array)])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (2, 3, 5, 7)])
def test_what_is_kept_may_have_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    name, array = "model.encoder.vision_tower.x", random(shape, mx.float32)
    (kept,) = convert(tmp_path, array, None, name).values()
    assert kept.dtype == mx.bfloat16 and kept.shape == array.shape
    assert mx.array_equal(kept, array.astype(mx.bfloat16))


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_nothing_is_no_chunk(shape: tuple[int, ...]) -> None:
    stored = StoredTensor(Tensor("model.encoder.vision_tower.x", "BF16", shape), "source", 8)
    (piece,) = apply_recipe([stored.tensor], Recipe("", (("*", None),)))
    assert list(chunks(SourceTensor.plain(stored), piece, {stored.tensor.name: 8})) == []


@pytest.mark.parametrize("spec", [None, QuantSpec(32, 4, "affine"), QuantSpec(32, 4, "mxfp4")], ids=str)
@pytest.mark.parametrize(
    ("value", "dtype"),
    [(v, t) for v in ("nan", "inf", "-inf") for t in TYPES] + [("3.4e38", mx.float32)],  # bf16 has no such number
    ids=str,
)
def test_nan_and_infinity_are_named(value: str, dtype: mx.Dtype, spec: QuantSpec | None, tmp_path: Path) -> None:
    array = random((2, 3, 64), dtype)
    array[1, 2, 63] = mx.array(float(value), mx.float32).astype(dtype)
    with pytest.raises(CheckpointError, match=rf"source\.safetensors: {NAME} holds NaN or infinity"):
        convert(tmp_path, array, spec)


def test_the_largest_finite_numbers_pass(tmp_path: Path) -> None:
    array = mx.array(np.full((1, 64), 0x7F7F, np.uint16)).view(mx.bfloat16)
    (kept,) = convert(tmp_path, array, None, "model.encoder.vision_tower.x").values()
    assert mx.array_equal(kept, array)


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    source, target = tmp_path / "source.safetensors", tmp_path / "target"
    mx.save_safetensors(str(source), {NAME: random((2, 3, 64), mx.bfloat16)})
    (stored,) = read_header(source)
    (piece,) = apply_recipe([stored.tensor], Recipe("", (("*", None),)))
    (chunk,) = chunks(SourceTensor.plain(stored), piece, {piece.written[0].name: 0})
    os.truncate(source, source.stat().st_size - 1)
    with (
        source.open("rb") as read,
        target.open("wb") as written,
        pytest.raises(CheckpointError, match=rf"source\.safetensors ends within {NAME}; download it again"),
    ):
        transfer(chunk, {source.name: read.fileno()}, written.fileno())


def test_short_reads_and_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 100), offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:77], offset))
    array, spec = random((2, 3, 64), mx.bfloat16), QuantSpec(32, 4, "affine")
    made = convert(tmp_path, array, spec)
    for result, suffix in zip(whole(array, spec), ("weight", "scales", "biases"), strict=False):
        assert same_bits(made[f"{NAME}.{suffix}"].view(mx.uint8), result.view(mx.uint8)), suffix
