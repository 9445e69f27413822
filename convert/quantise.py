"""Reads rows of a tensor from the source file, quantises them, and writes the results to their places.

MLX quantises groups along the last axis, so rows do not depend on each other: a matrix of 1 GB is converted one MiB at
a time, and the result equals that of the whole, bit for bit. Knows nothing of folders, recipes or the order of the
work.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.headers import ITEM_BYTES, StoredTensor
from mlx_diffusion.checkpoint.pieces import Piece
from mlx_diffusion.errors import CheckpointError

# Larger chunks are no faster, and MLX's mx and nv kernels for the CPU are slower with them.
# Digests of a source are made of those of its chunks, so another size makes finished folders look foreign.
CHUNK_BYTES = 1 << 20
BF16_EXPONENT = 0x7F80  # all its bits are set in NaN and infinity, and in nothing else
NUMPY_TYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows of one tensor: where to read them, the format, and where to write each result."""

    stored: StoredTensor
    spec: QuantSpec | None
    shape: tuple[int, int]  # [rows, entries of a row]
    offset: int
    targets: tuple[int, ...]  # offsets in the target file: weight, or weight, scales and (affine) biases

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.stored.tensor.dtype]


def chunks(stored: StoredTensor, piece: Piece, starts: Mapping[str, int]) -> Iterator[Chunk]:
    """Cut a tensor into chunks; `starts` has the offsets of the written tensors in the target file."""
    tensor = stored.tensor
    width = tensor.shape[-1] if tensor.shape else 1
    rows = math.prod(tensor.shape[:-1])
    if not rows * width:
        return
    row_bytes = width * ITEM_BYTES[tensor.dtype]
    step = max(1, CHUNK_BYTES // row_bytes)
    for row in range(0, rows, step):
        targets = tuple(starts[written.name] + row * (written.nbytes // rows) for written in piece.written)
        shape = (min(step, rows - row), width)
        yield Chunk(stored, piece.spec, shape, stored.offset + row * row_bytes, targets)


def transfer(chunk: Chunk, source: int, target: int) -> bytes:
    """Read a chunk, cast and check it, quantise it, write it; returns the digest of what was read.

    `source` and `target` are descriptors of open files. MLX works on the calling thread's own stream, so several
    threads may do this at once. Raises CheckpointError for NaN, infinity and a file that ends.
    """
    data = _read(source, chunk)
    array = _rows(chunk, data)
    # NumPy has no type for bf16, so its bits are looked at.
    bits = np.asarray(array.view(mx.uint16))
    if (bits & BF16_EXPONENT).max() == BF16_EXPONENT:
        name = chunk.stored.tensor.name
        raise CheckpointError(
            f"{chunk.stored.file}: {name} holds NaN or infinity, or a number beyond bf16; get the file again"
        )
    results = [array] if chunk.spec is None else quantised(array, chunk.spec)
    mx.eval(results)
    for result, offset in zip(results, chunk.targets, strict=True):
        _write(target, np.asarray(result.view(mx.uint8)).reshape(-1).data, offset)
    return sha256(data).digest()


def digest(chunk: Chunk, source: int) -> bytes:
    """The digest that `transfer` gives for a chunk."""
    return sha256(_read(source, chunk)).digest()


def read_rows(chunk: Chunk, source: int) -> mx.array:
    """The chunk's rows in bf16, [rows, entries of a row]."""
    return _rows(chunk, _read(source, chunk))


def _rows(chunk: Chunk, data: bytes) -> mx.array:
    dtype = chunk.stored.tensor.dtype
    array = mx.array(np.frombuffer(data, NUMPY_TYPES[dtype]).reshape(chunk.shape))
    return array.view(mx.bfloat16) if dtype == "BF16" else array.astype(mx.bfloat16)


def quantised(array: mx.array, spec: QuantSpec) -> list[mx.array]:
    """Weight, scales and (affine) biases of rows, as MLX quantises them."""
    return list(mx.quantize(array, group_size=spec.group_size, bits=spec.bits, mode=spec.mode))


def _read(source: int, chunk: Chunk) -> bytes:
    data = b""
    while len(data) < chunk.nbytes:
        try:
            more = os.pread(source, chunk.nbytes - len(data), chunk.offset + len(data))
        except OSError as error:
            raise CheckpointError(f"{chunk.stored.file} cannot be read ({error.strerror})") from None
        if not more:
            raise CheckpointError(f"{chunk.stored.file} ends within {chunk.stored.tensor.name}; download it again")
        data = data + more if data else more
    return data


def _write(target: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(target, data, offset)
        data, offset = data[written:], offset + written
