"""Headers of weight files: any bytes in their place are refused in one line, and no foreign error comes through."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.errors import CheckpointError

TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS: list[Any] = [
    {"__metadata__": {"a": 1}, "x": TENSOR}, {"__metadata__": [], "x": TENSOR}, {"x": TENSOR | {"dtype": "F64"}},
    {"x": {"dtype": "F8_E5M2", "shape": [4], "data_offsets": [0, 4]}}, {"x": TENSOR | {"shape": [float("nan")]}},
    {"\ud800": TENSOR}, {"x": TENSOR | {"data_offsets": [0, 2**64]}}, {"x": TENSOR | {"shape": [-1]}}, [], None,
]  # fmt: skip


def check(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    try:
        Checkpoint.open(folder).tensors()
    except CheckpointError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_were_tracebacks(header: Any, folder: Path) -> None:
    text = json.dumps(header).encode()
    check(folder, len(text).to_bytes(8, "little") + text + bytes(8 if "F64" in str(header) else 4))


def test_bytes_behind_the_last_tensor_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="is no sound safetensors file"):
        Checkpoint.open(folder)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 3000), value=st.binary(min_size=1, max_size=4))
def test_any_bytes_in_a_header(place: int, value: bytes, folder: Path) -> None:
    content = bytearray((Path(__file__).parent / "fixtures" / "hub" / "model.safetensors").read_bytes())
    content[place : place + len(value)] = value
    check(folder, bytes(content))
