"""A tensor of the model as it lies in the files of its source: blocks of rows, each of which is read by itself.

A fused array of experts may lie there expert by expert, and a matrix as packed bits with scales beside them. Knows
nothing of names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.encodings import Encoding, PlainNumbers
from mlx_diffusion.checkpoint.headers import StoredTensor, Tensor

NUMPY_TYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "U8": np.uint8, "F8_E4M3": np.uint8}


class Span(NamedTuple):
    """Neighbouring bytes of a file."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Component:
    """A stored tensor that a block is made of: so many bytes for each row of the block, or (0) all for all of them."""

    stored: StoredTensor
    row_bytes: int

    @classmethod
    def by_rows(cls, stored: StoredTensor, rows: int) -> Component:
        return cls(stored, stored.tensor.nbytes // rows if rows else 0)

    @classmethod
    def for_all(cls, stored: StoredTensor) -> Component:
        return cls(stored, 0)

    def span(self, first: int, count: int) -> Span:
        if not self.row_bytes:
            return Span(self.stored.file, self.stored.offset, self.stored.tensor.nbytes)
        return Span(self.stored.file, self.stored.offset + first * self.row_bytes, count * self.row_bytes)

    def array(self, data: bytes, count: int) -> mx.array:
        """The bytes of a span of `count` rows, [count, …] or [all]; FP8 as uint8."""
        dtype = self.stored.tensor.dtype
        array = mx.array(np.frombuffer(data, NUMPY_TYPES[dtype]).reshape(count if self.row_bytes else 1, -1))
        return array.view(mx.bfloat16) if dtype == "BF16" else array


@dataclass(frozen=True)
class RowBlock:
    """Neighbouring rows of a tensor, of one encoding, that lie together."""

    rows: int
    width: int
    encoding: Encoding
    components: tuple[Component, ...]

    @property
    def nbytes(self) -> int:
        """Without what belongs to all rows."""
        return self.rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        return sum(component.row_bytes for component in self.components)

    @property
    def files(self) -> list[str]:
        return [component.stored.file for component in self.components]

    def spans(self, first: int, count: int) -> list[Span]:
        """What is read for some rows, component by component."""
        return [component.span(first, count) for component in self.components]

    def arrays(self, data: Sequence[bytes], count: int) -> list[mx.array]:
        """The same as arrays, once it is read."""
        return [component.array(part, count) for component, part in zip(self.components, data, strict=True)]

    def lazy(self, arrays: Mapping[str, mx.array]) -> list[mx.array]:
        """The same of all rows, from the lazy arrays of the files."""
        found = [arrays[component.stored.tensor.name] for component in self.components]
        return [
            array.reshape(self.rows if component.row_bytes else 1, -1)
            for component, array in zip(self.components, found, strict=True)
        ]


class Check(Protocol):
    """A look at a tensor that is dropped, along with the rows of the one that it stands beside."""

    @property
    def files(self) -> tuple[str, ...]: ...

    def spans(self, first: int, count: int) -> list[Span]:
        """What is read for it along with some rows."""
        ...

    def holds(self, data: Sequence[bytes], first: int, rows: mx.array) -> bool:
        """True if that is what it claims to be; `rows` are the tensor's own from the first on, bf16 [rows, width]."""
        ...

    def holds_whole(self, arrays: Mapping[str, mx.array], numbers: mx.array) -> bool:
        """The same of the whole tensor's numbers."""
        ...

    def problem(self, name: str) -> str:
        """What is wrong if it does not hold; `name` is the tensor's that it stands beside."""
        ...


@dataclass(frozen=True)
class SourceTensor:
    """A tensor by the name and shape that the model's own files give it, and its rows as they are stored."""

    tensor: Tensor  # its type is the encoding's name
    blocks: tuple[RowBlock, ...]
    checks: tuple[Check, ...] = ()  # of tensors that only repeat it

    @classmethod
    def plain(cls, stored: StoredTensor) -> SourceTensor:
        """A tensor that is stored as it is."""
        return cls(stored.tensor, (plain_block(stored),))

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    @property
    def files(self) -> tuple[str, ...]:
        """The files in which it lies, each once."""
        own = [file for block in self.blocks for file in block.files]
        return tuple(dict.fromkeys([*own, *(file for check in self.checks for file in check.files)]))

    def pieces(self, first: int, count: int) -> Iterator[tuple[RowBlock, int, int]]:
        """The blocks that some rows lie in, with the first row and the number of rows in each."""
        for block in self.blocks:
            start, end = max(first, 0), min(first + count, block.rows)
            if start < end:
                yield block, start, end - start
            first -= block.rows

    def numbers(self, arrays: Mapping[str, mx.array]) -> mx.array:
        """All numbers in the tensor's shape, from the lazy arrays of the files."""
        values = [block.encoding.values(block.lazy(arrays)) for block in self.blocks]
        return (values[0] if len(values) == 1 else mx.concatenate(values)).reshape(self.tensor.shape)


def plain_block(stored: StoredTensor) -> RowBlock:
    """The rows of a tensor that is stored as plain numbers."""
    shape = stored.tensor.shape
    rows, width = math.prod(shape[:-1]), shape[-1] if shape else 1
    return RowBlock(rows, width, PlainNumbers(stored.tensor.dtype), (Component.by_rows(stored, rows),))


def is_plain(source: SourceTensor) -> bool:
    """True for a tensor that is stored as it is, under its own name."""
    return [c.stored.tensor for block in source.blocks for c in block.components] == [source.tensor]
