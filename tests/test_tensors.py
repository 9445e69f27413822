"""Safetensors headers, held against MLX as a reader and writer of the same files."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffusion.checkpoint.headers import StoredTensor, Tensor, parse_header, read_header, write_header
from mlx_diffusion.errors import CheckpointError


def test_what_mlx_writes_is_read_at_the_right_offsets(tmp_path: Path) -> None:
    arrays = {"a": mx.arange(6, dtype=mx.uint32).reshape(2, 3), "b": mx.array([1.5, -2.0]).astype(mx.bfloat16)}
    file = tmp_path / "model.safetensors"
    mx.save_safetensors(str(file), arrays)
    stored = {entry.tensor.name: entry for entry in read_header(file)}
    assert stored["a"].tensor == Tensor("a", "U32", (2, 3))
    assert stored["b"].tensor == Tensor("b", "BF16", (2,))
    content = file.read_bytes()
    start = stored["a"].offset
    assert content[start : start + stored["a"].tensor.nbytes] == np.array(arrays["a"]).tobytes()


def test_mlx_reads_what_is_written(tmp_path: Path) -> None:
    tensors = [Tensor("x.weight", "U32", (2, 2)), Tensor("x.scales", "U8", (3,)), Tensor("norm", "F32", (1,))]
    header, offsets = write_header(tensors)
    assert len(header) % 8 == 0
    assert offsets["x.weight"] == len(header)
    file = tmp_path / "model.safetensors"
    file.write_bytes(header + bytes(range(16)) + b"\1\2\3" + b"\0\0\x80\x3f")
    loaded = mx.load(str(file))
    assert isinstance(loaded, dict)
    assert loaded["x.weight"].tolist() == [[0x03020100, 0x07060504], [0x0B0A0908, 0x0F0E0D0C]]
    assert loaded["x.scales"].tolist() == [1, 2, 3]
    assert loaded["norm"].tolist() == [1.0]
    assert [entry.offset for entry in read_header(file)] == list(offsets.values())


def header_of(**entries: object) -> bytes:
    return json.dumps(entries).encode()


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"not json", "no readable"),
        (b"[1]", "no readable"),
        (b"[" * 100_000, "no readable"),
        (header_of(a={**ENTRY, "dtype": "Q4"}), "a holds Q4"),
        (header_of(a={**ENTRY, "dtype": ["F32"]}), "no readable"),
        (header_of(a={**ENTRY, "shape": [3]}), r"a, F32 of shape \[3\], must have 12 bytes, its header gives it 8"),
        (header_of(a={**ENTRY, "shape": [2**40, 2**40]}), "must have"),
        (header_of(a={**ENTRY, "shape": [2.0]}), "no readable"),
        (header_of(a={**ENTRY, "data_offsets": [0.0, 8.0]}), "no readable"),
        (header_of(a={**ENTRY, "data_offsets": [8, 0]}), "must have"),
        (header_of(a={**ENTRY, "shape": [-1, -2]}), "no readable"),
        (header_of(a={"dtype": "F32", "shape": [2]}), "no readable"),
        (header_of(a=ENTRY, b=ENTRY), "does not start where"),
        (header_of(a={**ENTRY, "data_offsets": [8, 16]}), "does not start where"),
    ],
)
def test_a_broken_header_is_one_line(header: bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem) as caught:
        parse_header(header, "x.safetensors", file_size=10_000)
    assert str(caught.value).startswith("x.safetensors")


@pytest.mark.parametrize("size", [0, 7, 8, 40, -1])
def test_a_truncated_file_is_one_line(size: int, tmp_path: Path) -> None:
    header, _ = write_header([Tensor("a", "F32", (2,))])
    file = tmp_path / "x.safetensors"
    file.write_bytes((header + bytes(8))[:size])
    with pytest.raises(CheckpointError, match=r"x\.safetensors is truncated"):
        read_header(file)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read \(it is no regular file\)"):
        read_header(tmp_path)


def test_the_metadata_is_no_tensor() -> None:
    header, _ = write_header([Tensor("a", "F32", (2,))])
    assert parse_header(header[8:], "x", 10_000) == [StoredTensor(Tensor("a", "F32", (2,)), "x", len(header))]
