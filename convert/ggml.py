"""The types in which GGML packs numbers, as far as the gguf package, an optional one, unpacks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import mlx.core as mx
import numpy as np

from mlx_diffusion.errors import CheckpointError

PREFIX = "GGUF "  # before the name of a type, where it stands for an encoding
PLAIN = ("F32", "F16", "BF16")  # which safetensors has by the same names


def package() -> ModuleType:
    """The gguf package. Raises CheckpointError where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise CheckpointError(
            "GGUF files are read with the gguf package, which is not installed; run: pip install 'mlx-diffusion[gguf]'"
        ) from None
    return gguf


def type_name(kind: int) -> str:
    """The name of a GGML type, such as Q4_K, by its number."""
    return str(package().GGMLQuantizationType(kind).name)


def block_sizes(kind: int, where: str) -> tuple[int, int]:
    """The numbers in a block of a type, and its bytes. Raises CheckpointError, which `where` begins."""
    gguf = package()
    try:
        entries, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise CheckpointError(f"{where} is of the GGML type {kind}, which the gguf package does not know") from None
    return int(entries), int(nbytes)


@dataclass(frozen=True)
class GgmlBlocks:
    """Numbers in blocks of a GGML type; arrays: uint8 [rows, bytes of a row]."""

    ggml_type: str

    @property
    def name(self) -> str:
        return PREFIX + self.ggml_type

    def values(self, arrays: Sequence[mx.array]) -> mx.array:
        gguf = package()
        (packed,) = arrays
        with np.errstate(all="ignore"):  # scales may be NaN or infinite; who reads the numbers looks at them
            return mx.array(gguf.dequantize(np.asarray(packed), gguf.GGMLQuantizationType[self.ggml_type]))


def check_unpacked(ggml_type: str, where: str) -> None:
    """Refuse a type that the gguf package knows and does not unpack. Raises CheckpointError."""
    gguf = package()
    kind = gguf.GGMLQuantizationType[ggml_type]
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        raise CheckpointError(
            f"{where} is of the GGML type {ggml_type}, which the gguf package does not unpack; take another GGUF"
        ) from None
