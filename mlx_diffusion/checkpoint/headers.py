"""Reads and writes the headers of safetensors files: the tensors in a file, and where each of them lies.

Knows nothing of models, recipes or arrays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.regular_files import open_regular

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
LENGTH_BYTES = 8
HEADER_LIMIT = 100_000_000  # the format's own bound


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, element type as safetensors spells it (BF16, U32 …) and shape.

    Where a tensor of the model is stored as several (see layouts), its type is the name of its encoding (FP8 …).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: the file's name, and the offset of the tensor's bytes from its start."""

    tensor: Tensor
    file: str
    offset: int


def read_header(path: Path) -> list[StoredTensor]:
    """The tensors of a file on disk, by offset. Raises CheckpointError for a truncated or unreadable file."""
    try:
        size = path.stat().st_size
        with open_regular(path) as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, HEADER_LIMIT):
                raise CheckpointError(
                    f"{path} is truncated or no safetensors file ({count_of(size, 'byte')}); download it again"
                )
            header = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); download it again") from None
    stored = None
    problem = _judged(path)
    if problem is None or header:
        stored = parse_header(header, path.name, size, where=str(path))  # names what is wrong, where it can
    if problem is not None or stored is None:
        raise CheckpointError(f"{path} is no sound safetensors file ({problem}); download it again")
    return stored


def _judged(path: Path) -> str | None:
    """What the safetensors package's own parser, which was audited, finds wrong with a file; None: nothing."""
    try:
        with safe_open(str(path), framework="numpy"):
            return None
    except UnicodeEncodeError:  # a path that is not UTF-8, which that parser cannot open
        return None
    except (SafetensorError, OSError, ValueError) as error:
        return str(error).split("\n")[0][:100]


def parse_header(header: bytes, file: str, file_size: int, where: str | None = None) -> list[StoredTensor]:
    """The tensors that a header lists, by offset; `header` starts after the eight bytes of its length."""
    where = where or file
    start = LENGTH_BYTES + len(header)
    try:
        entries = json.loads(header)
        stored = [_stored(name, entry, file, start, where) for name, entry in entries.items() if name != "__metadata__"]
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{where} has no readable safetensors header; download it again") from None
    stored.sort(key=lambda entry: (entry.offset, entry.tensor.nbytes))
    position = start
    for entry in stored:
        if entry.offset != position:
            raise CheckpointError(
                f"{where}: {entry.tensor.name} does not start where the tensor before it ends; download it again"
            )
        position += entry.tensor.nbytes
    if file_size < position:
        raise CheckpointError(f"{where} is truncated: {count_of(file_size, 'byte')} of {position}; download it again")
    return stored


def _stored(name: str, entry: Any, file: str, start: int, where: str) -> StoredTensor:
    """One line of a header."""
    tensor = Tensor(name, entry["dtype"], tuple(entry["shape"]))
    first, last = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*tensor.shape, first, last)):
        raise ValueError(name)
    if tensor.dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{where}: {name} holds {tensor.dtype}, which is not read; known are {', '.join(ITEM_BYTES)}"
        )
    if last - first != tensor.nbytes:
        raise CheckpointError(
            f"{where}: {name}, {tensor.dtype} of shape {list(tensor.shape)}, must have "
            f"{count_of(tensor.nbytes, 'byte')}, its "
            f"header gives it {last - first}; download it again"
        )
    return StoredTensor(tensor, file, start + first)


def write_header(tensors: Sequence[Tensor]) -> tuple[bytes, dict[str, int]]:
    """The header of a file that holds these tensors in this order, and the offset of each tensor in the file.

    The data starts at a multiple of eight bytes, as the format asks; the metadata say "mlx", which tells
    readers that nothing is left to convert.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    position, starts = 0, {}
    for tensor in tensors:
        starts[tensor.name] = position
        end = position + tensor.nbytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (position, end)}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    data = LENGTH_BYTES + len(text)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, {name: data + start for name, start in starts.items()}
