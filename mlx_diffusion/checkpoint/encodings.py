"""The encodings in which published checkpoints keep a matrix: plain numbers, FP8, NVFP4.

Each gives the numbers of a matrix from the arrays that hold it. Knows nothing of names, files or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_diffusion.checkpoint.formats import FIXED_MODES, FP8, NVFP4, QuantSpec
from mlx_diffusion.checkpoint.packing import unpacked

NVFP4_GROUP, NVFP4_BITS = FIXED_MODES["nvfp4"]


class Encoding(Protocol):
    """The numbers of a matrix, or of some of its rows, from the arrays that hold them."""

    @property
    def name(self) -> str:
        """In a word: BF16, FP8, NVFP4, Q4_K …; where it stands for an element type, the one of safetensors."""
        ...

    def values(self, arrays: Sequence[mx.array]) -> mx.array:
        """Floating-point numbers [rows, width]; exact in float32, or rounded to it once."""
        ...


@dataclass(frozen=True)
class PlainNumbers:
    """Floating-point numbers as they are; arrays: [rows, width]."""

    name: str  # the element type

    def values(self, arrays: Sequence[mx.array]) -> mx.array:
        (numbers,) = arrays
        return numbers


@dataclass(frozen=True)
class Fp8:
    """E4M3 times a scale; arrays: uint8 [rows, width], and a scale for each row or one for all."""

    name: str = FP8

    def values(self, arrays: Sequence[mx.array]) -> mx.array:
        codes, scale = arrays
        factor = scale.astype(mx.float32).reshape(-1, 1)
        return mx.from_fp8(codes, mx.float32) * factor


@dataclass(frozen=True)
class Nvfp4:
    """E2M1 times a scale in E4M3 for each 16, times a scale for all.

    Arrays: uint8 [rows, width / 2], the low half of a byte first; uint8 [rows, width / 16]; float32, one number. MLX
    has the first two in the same bits. `reciprocal`: the last is what the others are divided by.
    """

    reciprocal: bool
    name: str = NVFP4

    def values(self, arrays: Sequence[mx.array]) -> mx.array:
        packed, scales, _ = arrays
        numbers = unpacked(packed.view(mx.uint32), scales, None, QuantSpec(NVFP4_GROUP, NVFP4_BITS, "nvfp4"))
        whole = self._whole(arrays)
        return numbers / whole if self.reciprocal else numbers * whole

    def factor(self, arrays: Sequence[mx.array]) -> mx.array:
        """What every number is multiplied by: float32 [1]."""
        whole = self._whole(arrays)
        return 1 / whole if self.reciprocal else whole

    def _whole(self, arrays: Sequence[mx.array]) -> mx.array:
        """The scale of all as it is stored: NaN for an infinite one, by which all numbers would be divided to 0."""
        whole = arrays[2].astype(mx.float32).reshape(1)
        return mx.where(mx.isfinite(whole), whole, mx.nan)
