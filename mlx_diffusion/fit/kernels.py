"""Seconds that MLX's kernels take for a matrix product on a chip, from a few measured rates.

A product takes as long as the slower of two things: reading its weights, and its arithmetic. Kernels compute rows in
tiles, so a product of 10 rows costs as much arithmetic as one of 32; below that they go row by row. Experts' products
are sorted by expert: tiles of 16 rows when there are four or more for each expert, else row by row, where a matrix
that the row before has just read is partly still at hand. The widths are those of MLX 0.32 (`quantized.cpp` of its
Metal back end: qmm 32, gather_qmm_rhs 16, with matrix units 64 in both; four rows an expert). The rates:

    bandwidth   0.78 of what is published: 0.79 on M1 Max (github.com/ggml-org/llama.cpp/pull/1642), 0.79 on M5
                (michaelstinkerings.org/apple-m5-gpu-roofline-analysis), 0.78 on M5 Max (lablup/mlxcel pull 358)
    tiles       0.78 of the lanes: 0.513 ms for 32 rows of 5,120 by 17,408 in 4 bits on M3 Max (ml-explore/mlx pull
                3863), 0.77 on M3 Ultra (ml-explore/mlx issue 4265)
    matrix units  0.5: what a prompt of 1,536 tokens reaches on M5 Max (magicnight/Mac-MLX issue 62), rounded
    rows        0.31 of the lanes: 0.04 ms a row of the same matrix on M3 Max
    again       0.39 of a first reading: experts of a pass over 32 positions on M3 Max, 53.9 ms (docs/macs.md)
    bfloat16    0.56 of float16 on M1 and M2, where it is emulated: 30.6 ms against 17.2 for one product

Knows nothing of passes or of schedules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlx_diffusion.fit.chips import Chip
from mlx_diffusion.fit.products import EXPERTS, Product

REACHED_BANDWIDTH, REACHED_BY_TILES, REACHED_BY_MATRIX_UNITS, REACHED_BY_ROWS = 0.78, 0.78, 0.5, 0.31
READ_AGAIN = 0.39
EMULATED_BFLOAT16 = 17.2 / 30.6

FEWEST_TILED_ROWS = 10  # fewer rows are computed one by one; 6 to 12 by chip and size
TILE, EXPERT_TILE, MATRIX_TILE = 32, 16, 64  # rows
FEWEST_TILED_ROWS_AN_EXPERT = 4


@dataclass(frozen=True)
class Rates:
    """The rates that MLX's kernels reach on a chip, in activations of 16 bits."""

    bandwidth: float  # bytes a second
    rows: float  # operations a second, row by row
    tiles: float  # in tiles
    tile: int  # rows
    expert_tile: int

    @classmethod
    def of(cls, chip: Chip, *, float16: bool = False) -> Rates:
        """The rates in bfloat16, or in float16 where the products are done in it."""
        slowed = 1.0 if float16 or chip.has_bfloat16 else EMULATED_BFLOAT16
        bandwidth, rows = REACHED_BANDWIDTH * chip.bandwidth, REACHED_BY_ROWS * chip.flops * slowed
        if chip.matrix_flops is None:
            return cls(bandwidth, rows, REACHED_BY_TILES * chip.flops * slowed, TILE, EXPERT_TILE)
        return cls(bandwidth, rows, REACHED_BY_MATRIX_UNITS * chip.matrix_flops, MATRIX_TILE, MATRIX_TILE)

    def seconds(self, product: Product, item_bytes: int) -> tuple[float, float]:
        """Seconds to read a product's weights, and seconds of its arithmetic; the product takes the longer of them."""
        read, rows = product.nbytes(item_bytes), product.rows
        tiled_rows = rows >= FEWEST_TILED_ROWS
        if product.part == EXPERTS:
            tiled_rows = rows >= FEWEST_TILED_ROWS_AN_EXPERT * product.held
            if not tiled_rows:
                read *= 1 + READ_AGAIN * max(0.0, rows / product.matrices - 1)
        flops_a_row = product.flops / rows
        rate = self.tiles if tiled_rows else self.rows
        return read / self.bandwidth, flops_a_row * (self._computed_rows(product) if tiled_rows else rows) / rate

    def _computed_rows(self, product: Product) -> float:
        """The rows of all tiles of a product, those that are filled up included."""
        if product.part != EXPERTS:
            return math.ceil(product.rows / self.tile) * self.tile
        # A tile is gone through once for each expert that has rows in it: once a tile, and once more an expert's edge.
        return (math.ceil(product.rows / self.expert_tile) + product.matrices - 1) * self.expert_tile
