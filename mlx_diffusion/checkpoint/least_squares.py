"""Affine groups whose scales and offsets are fitted: those of the least squared error that a search finds.

MLX takes them from the least and the largest number of a group. Here the nearest points of a grid are chosen for the
numbers, then the grid that is best for these points is solved for by linear regression, and so on in turn (Lloyd's
iteration), beginning with a grid that reaches to the ends and with narrower ones. MLX's own goes first, so no group is
ever worse. Readers need not know. Knows nothing of models or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_diffusion.checkpoint.formats import QuantSpec

REACHES = (1.0, 0.9, 0.8)  # of the grids to begin with, as a share of the group's own
ROUNDS = 5  # of choosing points and solving for the grid; eight more take off another hundredth of the error
WORD = 32  # bits of what packed numbers are kept in


def fitted(weight: mx.array, spec: QuantSpec) -> list[mx.array]:
    """Weight, scales and biases of matrices [..., in] in bf16, in MLX's affine format."""
    _, *own = mx.quantize(weight, spec.group_size, spec.bits)
    scale, bias = (one.astype(mx.float32)[..., None] for one in own)
    groups = weight.astype(mx.float32).reshape(*scale.shape[:-1], spec.group_size)
    last = 2**spec.bits - 1
    best = _Grid(scale, bias, last)
    least = best.squared_error(groups)
    low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
    for reach in REACHES:
        step = (high - low) * (reach / last)
        grid = _Grid(step, (low + high - step * last) / 2, last)
        for _ in range(ROUNDS):
            grid = grid.solved(groups)
        grid = grid.stored()
        error = grid.squared_error(groups)
        best = best.where(error < least, grid)
        least = mx.minimum(error, least)
    scales, biases = (one.squeeze(-1).astype(mx.bfloat16) for one in (best.scale, best.bias))
    return [in_words(best.points(groups).reshape(weight.shape), spec.bits), scales, biases]


@dataclass(frozen=True)
class _Grid:
    """bias + scale · q for whole q from 0 to `last`, one for each group: float32 [..., groups, 1]."""

    scale: mx.array
    bias: mx.array
    last: int

    def points(self, groups: mx.array) -> mx.array:
        """The q nearest to each number."""
        return mx.clip(mx.round((groups - self.bias) / mx.where(self.scale == 0, 1, self.scale)), 0, self.last)

    def squared_error(self, groups: mx.array) -> mx.array:
        return mx.square(self.bias + self.scale * self.points(groups) - groups).sum(axis=-1, keepdims=True)

    def solved(self, groups: mx.array) -> _Grid:
        """The grid of least squared error for the points that are nearest on this one."""
        points, mean = self.points(groups), groups.mean(axis=-1, keepdims=True)
        middle = points.mean(axis=-1, keepdims=True)
        apart = points - middle
        variance = mx.square(apart).sum(axis=-1, keepdims=True)
        scale = (apart * (groups - mean)).sum(axis=-1, keepdims=True) / mx.where(variance == 0, 1, variance)
        return _Grid(scale, mean - scale * middle, self.last)

    def stored(self) -> _Grid:
        """What is left of it in bf16."""
        scale, bias = (one.astype(mx.bfloat16).astype(mx.float32) for one in (self.scale, self.bias))
        return _Grid(scale, bias, self.last)

    def where(self, better: mx.array, other: _Grid) -> _Grid:
        """The other grid for groups where it is better."""
        scale, bias = mx.where(better, other.scale, self.scale), mx.where(better, other.bias, self.bias)
        return _Grid(scale, bias, self.last)


def in_words(numbers: mx.array, bits: int) -> mx.array:
    """Whole numbers of so many bits, one behind the other from the lowest bit on: uint32 [..., width · bits / 32]."""
    single = numbers.astype(mx.uint32)[..., None] >> mx.arange(bits, dtype=mx.uint32) & 1
    words = single.reshape(*numbers.shape[:-1], -1, WORD) << mx.arange(WORD, dtype=mx.uint32)
    return words.sum(axis=-1)
