"""Compares each converted tensor with its source, and its error with the one that its format allows.

Tensors that are kept in bf16 must be the source's, rounded to bf16, to the bit. In quantised tensors no element may
be farther from its source than its group's grid explains (see format_bounds), so that one wrong group among millions
is found. Rows are read chunk by chunk, at their offsets in both files. Knows nothing of what the tensors are for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.headers import StoredTensor, Tensor
from mlx_diffusion.checkpoint.packing import unpacked
from mlx_diffusion.checkpoint.pieces import Piece
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.convert.format_bounds import allowed
from mlx_diffusion.convert.quantise import Chunk, chunks, read_kept, read_rows
from mlx_diffusion.errors import CheckpointError

READ_AS = {"U32": np.uint32, "U8": np.uint8, "BF16": np.uint16, "F32": np.float32}
LEAST = 2.0**-126  # smallest normal float32, for dividing by a bound of 0


@dataclass(frozen=True)
class TensorError:
    """The error of one tensor. Errors are relative: norm of the difference over norm of the source."""

    name: str
    spec: QuantSpec | None
    found: float
    at_most: float  # the error if each element were off by all that its format allows; 0 in bf16
    share: float  # the largest ratio of an element's error to the one allowed; more than 1 is wrong
    place: tuple[int, ...]  # the indices of that element

    @property
    def ok(self) -> bool:
        return self.share <= 1 and self.found <= self.at_most


def tensor_errors(
    folder: Path,
    sources: Sequence[SourceTensor],
    target: Mapping[str, tuple[Path, StoredTensor]],
    made: Sequence[Piece],
    advance: Callable[[int], None],
) -> Iterator[TensorError]:
    """The error of every piece, made of the source at its place; `target` maps names to places.

    The sources lie in files of `folder`; `advance` is told the bytes read.
    """
    for source, piece in zip(sources, made, strict=True):
        kept, _ = target[piece.written[0].name]
        starts = {tensor.name: target[tensor.name][1].offset for tensor in piece.written}
        difference = most = norm = share = 0.0
        place = 0
        with ExitStack() as stack:
            files = {name: stack.enter_context((folder / name).open("rb")).fileno() for name in source.files}
            written = stack.enter_context(kept.open("rb")).fileno()
            for chunk in chunks(source, piece, starts):
                rows = read_rows(chunk, files)
                arrays = _read_back(chunk, piece, written)
                same = read_kept(chunk, files) if piece.kept else None
                error, bound = _errors(rows, arrays, piece.spec) if same is None else _differences(rows, arrays, same)
                shares = error / mx.maximum(bound, LEAST)
                # A wrong scale has the bound −1, so that it is found even where it restores the source by chance.
                shares = mx.where(mx.isnan(shares) | (bound < 0), mx.inf, shares).reshape(-1)
                worst = mx.argmax(shares)
                sums = mx.stack([_squares(error), _squares(bound), _squares(rows), shares[worst]])
                mx.eval(sums, worst)
                squares = np.array(sums, np.float64)
                difference, most, norm = difference + squares[0], most + squares[1], norm + squares[2]
                if squares[3] > share:
                    share = float(squares[3])
                    place = chunk.place * chunk.block.width + int(np.array(worst))
                advance(chunk.nbytes)
        scale = norm or 1.0
        indices = tuple(map(int, np.unravel_index(place, piece.source.shape))) if piece.source.shape else ()
        found = math.inf if math.isnan(difference) else math.sqrt(difference / scale)
        yield TensorError(piece.source.name, piece.spec, found, math.sqrt(most / scale), share, indices)


def _errors(rows: mx.array, arrays: list[mx.array], spec: QuantSpec | None) -> tuple[mx.array, mx.array]:
    """The error of each element and the error allowed: two float32 arrays of one shape."""
    exact = rows.astype(mx.float32)
    if spec is None:
        # Compared by bits, since −0 is not 0; numbers that are equal but for their bits get an infinite error.
        same = rows.view(mx.uint16) == arrays[0].view(mx.uint16)
        error = mx.abs(arrays[0].astype(mx.float32) - exact)
        return mx.where(same, 0.0, mx.where(error > 0, error, mx.inf)), mx.zeros_like(exact)
    restored = _dequantised(arrays, spec)
    bound = allowed(exact, restored, arrays, spec)
    return mx.abs(restored - exact).reshape(bound.shape), bound


def _differences(rows: mx.array, arrays: list[mx.array], same: list[mx.array]) -> tuple[mx.array, mx.array]:
    """The same for rows that are kept in the source's own bits, of which none may differ."""
    count = rows.shape[0]
    pairs = zip(arrays, same, strict=True)
    equal = [_bytes(one, count) == _bytes(other, count) for one, other in pairs]
    every = mx.concatenate(equal, axis=-1).all(axis=-1)
    return mx.where(every[:, None], 0.0, mx.full(rows.shape, mx.inf)), mx.zeros(rows.shape)


def _bytes(array: mx.array, rows: int) -> mx.array:
    return array.view(mx.uint8).reshape(rows, -1)


def _squares(array: mx.array) -> mx.array:
    return mx.square(array.astype(mx.float32)).sum()


def _dequantised(arrays: list[mx.array], spec: QuantSpec) -> mx.array:
    """The values in float32, so that the error does not include the rounding of a reader's own type."""
    weight, scales, *rest = arrays
    biases = rest[0].astype(mx.float32) if rest else None
    scales = scales.astype(mx.float32) if rest else scales
    return unpacked(weight, scales, biases, spec)


def _read_back(chunk: Chunk, piece: Piece, target: int) -> list[mx.array]:
    """Read the chunk's rows from every tensor that was made of it."""
    rows = chunk.rows
    arrays = []
    for tensor, offset in zip(piece.written, chunk.targets, strict=True):
        size = rows * (tensor.nbytes // math.prod(piece.source.shape[:-1]))
        data = os.pread(target, size, offset)
        if len(data) < size:
            raise CheckpointError(f"{tensor.name} ends early in the converted file; convert again")
        arrays.append(_array(data, tensor, rows))
    return arrays


def _array(data: bytes, tensor: Tensor, rows: int) -> mx.array:
    numbers = np.frombuffer(data, READ_AS[tensor.dtype])
    array = mx.array(numbers.reshape(rows, -1))
    return array.view(mx.bfloat16) if tensor.dtype == "BF16" else array
