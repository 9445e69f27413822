"""Reads rows of a tensor from the source files, quantises them, and writes the results to their places.

MLX quantises groups along the last axis, so rows do not depend on each other: a matrix of 1 GB is converted one MiB at
a time, and the result equals that of the whole, bit for bit. Knows nothing of folders, recipes or the order of the
work.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.encodings import Nvfp4
from mlx_diffusion.checkpoint.packing import packed
from mlx_diffusion.checkpoint.pieces import Piece
from mlx_diffusion.checkpoint.stored import RowBlock, SourceTensor, Span
from mlx_diffusion.errors import CheckpointError

# Larger chunks are no faster, and MLX's mx and nv kernels for the CPU are slower with them.
# Digests of a source are made of those of its chunks, so another size makes finished folders look foreign.
CHUNK_BYTES = 1 << 20
BF16_BYTES = 2
BF16_EXPONENT = 0x7F80  # all its bits are set in NaN and infinity, and in nothing else

Files = Mapping[str, int]  # a source file's name -> the descriptor of it, open


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows of one tensor: where to read them, the format, and where to write each result."""

    source: SourceTensor
    block: RowBlock
    first: int  # of the rows, in the block
    rows: int
    place: int  # of the first row, in the tensor
    piece: Piece
    targets: tuple[int, ...]  # offsets in the target file: weight, or weight, scales and (affine) biases

    @property
    def nbytes(self) -> int:
        return self.rows * self.block.row_bytes

    @property
    def spans(self) -> list[Span]:
        """The bytes that are read for its own rows."""
        return self.block.spans(self.first, self.rows)

    @property
    def name(self) -> str:
        return self.source.tensor.name


def chunks(source: SourceTensor, piece: Piece, starts: Mapping[str, int]) -> Iterator[Chunk]:
    """Cut a tensor into chunks; `starts` has the offsets of the written tensors in the target file."""
    place, rows = 0, math.prod(source.tensor.shape[:-1])
    for block in source.blocks:
        if not block.rows * block.width:
            continue
        step = max(1, CHUNK_BYTES // max(block.row_bytes, BF16_BYTES * block.width))
        for first in range(0, block.rows, step):
            row = place + first
            targets = tuple(starts[written.name] + row * (written.nbytes // rows) for written in piece.written)
            yield Chunk(source, block, first, min(step, block.rows - first), row, piece, targets)
        place += block.rows


def transfer(chunk: Chunk, sources: Files, target: int) -> bytes:
    """Read a chunk, cast and check it, quantise it, write it; returns the digest of what was read.

    `target` is the descriptor of an open file. MLX works on the calling thread's own stream, so several threads may do
    this at once. Raises CheckpointError for NaN, infinity and a file that ends.
    """
    data = _read(sources, chunk.spans, chunk.name)
    arrays = chunk.block.arrays(data, chunk.rows)
    rows = _in_bf16(chunk, arrays)
    # NumPy has no type for bf16, so its bits are looked at.
    bits = np.asarray(rows.view(mx.uint16))
    if (bits & BF16_EXPONENT).max() == BF16_EXPONENT:
        raise CheckpointError(
            f"{chunk.spans[0].file}: {chunk.name} holds NaN or infinity, or a number beyond bf16; get the file again"
        )
    data += _checked(chunk, sources, rows)
    results = _results(chunk, arrays, rows)
    mx.eval(results)
    for result, offset in zip(results, chunk.targets, strict=True):
        _write(target, np.asarray(result.view(mx.uint8)).reshape(-1).data, offset)
    return _digest(data)


def digest(chunk: Chunk, sources: Files) -> bytes:
    """The digest that `transfer` gives for a chunk."""
    beside = [span for check in chunk.source.checks for span in check.spans(chunk.place, chunk.rows)]
    return _digest(_read(sources, [*chunk.spans, *beside], chunk.name))


def read_rows(chunk: Chunk, sources: Files) -> mx.array:
    """The chunk's rows in bf16, [rows, entries of a row]."""
    return _in_bf16(chunk, chunk.block.arrays(_read(sources, chunk.spans, chunk.name), chunk.rows))


def read_kept(chunk: Chunk, sources: Files) -> list[mx.array]:
    """What a chunk becomes that is kept in its source's own bits."""
    return _kept(chunk, chunk.block.arrays(_read(sources, chunk.spans, chunk.name), chunk.rows))


def _in_bf16(chunk: Chunk, arrays: Sequence[mx.array]) -> mx.array:
    return chunk.block.encoding.values(arrays).astype(mx.bfloat16)


def _results(chunk: Chunk, arrays: Sequence[mx.array], rows: mx.array) -> list[mx.array]:
    """The arrays that are written."""
    if chunk.piece.kept:
        return _kept(chunk, arrays)
    return [rows] if chunk.piece.spec is None else packed(rows, chunk.piece.spec)


def _kept(chunk: Chunk, arrays: Sequence[mx.array]) -> list[mx.array]:
    """The packed bits and scales as they are, and the scale of all, once a row."""
    encoding = chunk.block.encoding
    assert isinstance(encoding, Nvfp4)
    weight, scales, _ = arrays
    return [weight, scales, mx.contiguous(mx.broadcast_to(encoding.factor(arrays), (chunk.rows,)))]


def _digest(data: Sequence[bytes]) -> bytes:
    found = sha256()
    for part in data:
        found.update(part)
    return found.digest()


def _checked(chunk: Chunk, sources: Files, rows: mx.array) -> list[bytes]:
    """Look at what stands beside these rows and is dropped; returns what was read. Raises CheckpointError."""
    read = []
    for check in chunk.source.checks:
        data = _read(sources, check.spans(chunk.place, chunk.rows), chunk.name)
        if data and not check.holds(data, chunk.place, rows):
            raise CheckpointError(f"{check.files[0]}: {check.problem(chunk.name)}")
        read += data
    return read


def _read(sources: Files, spans: Sequence[Span], name: str) -> list[bytes]:
    return [_read_span(sources[span.file], span, name) for span in spans]


def _read_span(source: int, span: Span, name: str) -> bytes:
    data = b""
    while len(data) < span.nbytes:
        try:
            more = os.pread(source, span.nbytes - len(data), span.offset + len(data))
        except OSError as error:
            raise CheckpointError(f"{span.file} cannot be read ({error.strerror})") from None
        if not more:
            raise CheckpointError(f"{span.file} ends within {name}; download it again")
        data = data + more if data else more
    return data


def _write(target: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(target, data, offset)
        data, offset = data[written:], offset + written
