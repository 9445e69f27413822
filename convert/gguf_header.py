"""Reads the head of a GGUF file: its metadata, and the name, type, shape and place of each tensor.

The gguf package has a reader of its own, which makes an array of every single token and takes over a gigabyte for the
published tokenizer; a conversion stays below 600 MB. Knows nothing of models.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_diffusion.convert.ggml import block_sizes, type_name
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.regular_files import open_regular

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
STRING, ARRAY = 8, 9
SCALARS: Mapping[int, str] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8", 12: "<f8"
}  # fmt: skip
MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a GGUF file: its GGML type by name, its shape, rows last as in NumPy, and where its bytes lie."""

    name: str
    ggml_type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """All that a GGUF file says before its weights."""

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the head of a file, whose tensors must all lie in it. Raises CheckpointError."""
    try:
        with open_regular(path) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Head(content, path).read()
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{path} cannot be read ({reason}); download it again") from None


class _Head:
    """A position in the file; every read is checked against its end."""

    def __init__(self, content: mmap.mmap, path: Path) -> None:
        self.content, self.path, self.at = content, path, 0

    def read(self) -> GgufHeader:
        if self._take(4) != MAGIC:
            raise CheckpointError(f"{self.path} is no GGUF file: it does not begin with GGUF")
        version = self._number("<u4")
        if version not in VERSIONS:
            raise CheckpointError(
                f"{self.path} is GGUF of version {version}; versions 2 and 3, little-endian, are read"
            )
        tensors, pairs = self._number("<u8"), self._number("<u8")
        metadata = {}
        for _ in range(pairs):
            key = self._text()
            metadata[key] = self._value(self._number("<u4"))
        described = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(f"{self.path}: general.alignment is {alignment!r}; download it again")
        start = -(-self.at // alignment) * alignment
        return GgufHeader(metadata, tuple(self._placed(start, *one) for one in described))

    def _take(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise CheckpointError(f"{self.path} is truncated within its head; download it again")
        self.at += count
        return self.content[self.at - count : self.at]

    def _number(self, kind: str) -> Any:
        return np.frombuffer(self._take(np.dtype(kind).itemsize), kind)[0].item()

    def _text(self) -> str:
        (length,) = struct.unpack("<Q", self._take(8))
        return self._take(length).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            return self._number(self._scalar(kind))
        kind, count = self._number("<u4"), self._number("<u8")
        if kind == STRING:
            return [self._text() for _ in range(count)]
        numbers = np.dtype(self._scalar(kind))
        return np.frombuffer(self._take(count * numbers.itemsize), numbers).tolist()

    def _scalar(self, kind: int) -> str:
        if kind not in SCALARS:
            raise CheckpointError(f"{self.path}: its metadata hold a value of the unknown type {kind}; get it again")
        return SCALARS[kind]

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name, dimensions = self._text(), self._number("<u4")
        if dimensions > MOST_DIMENSIONS:
            raise CheckpointError(
                f"{self.path}: {name} has {count_of(dimensions, 'dimension')}, GGUF has {MOST_DIMENSIONS} at most"
            )
        shape = tuple(self._number("<u8") for _ in range(dimensions))
        return name, self._number("<u4"), shape[::-1], self._number("<u8")

    def _placed(self, start: int, name: str, kind: int, shape: tuple[int, ...], offset: int) -> GgufTensor:
        where = f"{self.path}: {name}"
        entries, nbytes = block_sizes(kind, where)
        if shape and shape[-1] % entries:
            raise CheckpointError(
                f"{where} has rows of {count_of(shape[-1], 'number')}, which blocks of {entries} ({type_name(kind)}) "
                "do not divide"
            )
        size = math.prod(shape) // entries * nbytes
        if start + offset + size > len(self.content):
            raise CheckpointError(
                f"{self.path} is truncated: it has {count_of(len(self.content), 'byte')}, and {name} ends at "
                f"{start + offset + size}; download it again"
            )
        return GgufTensor(name, type_name(kind), shape, start + offset, size)
