"""Matrices for trials: random bits in a format, the same numbers in every type of activations, and in float64.

Knows nothing of products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import packed, unpacked

WORD_BITS = 32


def numbers(shape: tuple[int, ...], seed: int) -> mx.array:
    """Normal numbers that float16 and bfloat16 both hold exactly, float32."""
    values = mx.random.normal(shape, dtype=mx.float32, key=mx.random.key(seed))
    values = values.astype(mx.bfloat16).astype(mx.float16).astype(mx.float32)
    mx.eval(values)
    return values


@dataclass(frozen=True)
class Matrix:
    """Random matrices [..., out, in]: packed bits with scales, or plain numbers, which all types hold exactly."""

    weight: mx.array
    scales: mx.array | None
    biases: mx.array | None
    spec: QuantSpec | None

    @classmethod
    def random(cls, shape: tuple[int, ...], spec: QuantSpec | None, seed: int) -> Matrix:
        """Entries of about the size that keeps a product's results near 1."""
        *outer, width = shape
        size = 2.0 ** round(-math.log2(width) / 2)
        if spec is None:
            return cls(numbers(shape, seed) * size, None, None, None)
        if spec.mode != "affine":
            weight, scales = packed(numbers(shape, seed) * size, spec)
            mx.eval(weight, scales)
            return cls(weight, scales, None, spec)
        words = (*outer, width * spec.bits // WORD_BITS)
        weight = mx.array(np.random.default_rng(seed).integers(0, 1 << WORD_BITS, words, dtype=np.uint32))
        groups = (*outer, width // spec.group_size)
        step = 2.0 ** (2 - spec.bits) * size
        scales = mx.where(mx.random.bernoulli(0.5, groups, key=mx.random.key(seed)), step, step / 2)
        biases = -scales * 2 ** (spec.bits - 1)
        mx.eval(weight, scales, biases)
        return cls(weight, scales, biases, spec)

    def arrays(self, dtype: mx.Dtype) -> dict[str, mx.array]:
        """Weight, scales and biases by name, with activations of a type."""
        floating = {"scales": self.scales, "biases": self.biases} if self.spec else {"weight": self.weight}
        cast = {
            name: array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array
            for name, array in floating.items()
            if array is not None
        }
        made = {"weight": self.weight, **cast}
        mx.eval(made)
        return made

    def exact(self, *index: int | slice) -> np.ndarray:
        """Some matrices or rows of one in float64."""
        if self.spec is None or self.scales is None:
            return np.array(self.weight[index]).astype(np.float64)
        biases = None if self.biases is None else self.biases[index]
        return np.array(unpacked(self.weight[index], self.scales[index], biases, self.spec)).astype(np.float64)
