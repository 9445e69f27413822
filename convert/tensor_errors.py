"""How far each converted tensor is from its source, beside what its format can give.

What a format can give is what MLX's own quantiser loses on the same rows: a tensor that was converted rightly loses as
much, whatever its numbers; one that was mixed up, shifted or left from another run loses many times as much. Tensors
that are kept in bf16 must equal the source's rounded to bf16. Rows are read a chunk at a time at their offsets on both
sides. Knows nothing of what the tensors are for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_diffusion.quantization import QuantSpec
from mlx_diffusion.tensors import Stored, Tensor

from .layout import Piece
from .quantise import Chunk, chunks, quantised, read_rows

# GPU and CPU kernels of MLX may round a value at the middle between two steps to different sides.
MARGIN = 1.02


@dataclass(frozen=True)
class TensorError:
    """One tensor of the source: relative root-mean-square errors, norm of the difference over norm of the source."""

    name: str
    spec: QuantSpec | None
    found: float
    expected: float  # of MLX's own quantiser on the same rows; 0 in bf16

    @property
    def ok(self) -> bool:
        return self.found <= self.expected * MARGIN


def tensor_errors(
    source: Mapping[str, tuple[Path, Stored]],
    target: Mapping[str, tuple[Path, Stored]],
    made: list[Piece],
    advance: Callable[[int], None],
) -> Iterator[TensorError]:
    """The error of every piece; both sides give a tensor's file and place by its name, `advance` is told bytes read."""
    for piece in made:
        file, stored = source[piece.source.name]
        kept, _ = target[piece.written[0].name]
        starts = {tensor.name: target[tensor.name][1].offset for tensor in piece.written}
        difference = expected = norm = 0.0
        with file.open("rb") as read, kept.open("rb") as written:
            for chunk in chunks(stored, piece, starts):
                rows = read_rows(chunk, read.fileno())
                exact = rows.astype(mx.float32)
                found = _dequantised(_read_back(chunk, piece, written.fileno()), piece.spec)
                difference += _squares(found - exact)
                norm += _squares(exact)
                if piece.spec is not None:
                    expected += _squares(_dequantised(quantised(rows, piece.spec), piece.spec) - exact)
                advance(chunk.nbytes)
        scale = norm or 1.0
        yield TensorError(piece.source.name, piece.spec, math.sqrt(difference / scale), math.sqrt(expected / scale))


def _squares(array: mx.array) -> float:
    """The sum of squares; NaN, which compares with nothing, counts as infinite."""
    total = float(np.array(mx.square(array).sum()))
    return math.inf if math.isnan(total) else total


def _dequantised(arrays: list[mx.array], spec: QuantSpec | None) -> mx.array:
    if spec is None:
        return arrays[0].astype(mx.float32)
    weight, scales, biases = (*arrays, None)[:3]
    assert weight is not None and scales is not None
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(weight, scales, biases, spec.group_size, spec.bits, mode=spec.mode, dtype=mx.float32)


def _read_back(chunk: Chunk, piece: Piece, target: int) -> list[mx.array]:
    """The chunk's rows of every tensor that was made of them."""
    rows = chunk.shape[0]
    return [
        _array(os.pread(target, rows * _row_bytes(tensor), offset), tensor, rows)
        for tensor, offset in zip(piece.written, chunk.targets, strict=True)
    ]


def _row_bytes(tensor: Tensor) -> int:
    return tensor.nbytes // math.prod(tensor.shape[:-1])


def _array(data: bytes, tensor: Tensor, rows: int) -> mx.array:
    numbers = np.frombuffer(data, {"U32": np.uint32, "U8": np.uint8, "BF16": np.uint16}[tensor.dtype])
    array = mx.array(numbers.reshape(rows, -1))
    return array.view(mx.bfloat16) if tensor.dtype == "BF16" else array
