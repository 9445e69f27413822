"""Trials of a product: rows by one matrix, in each type and width; of the router's with the experts that it chooses.

Knows nothing of other kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.config import FULL, SLIDING, ModelConfig
from mlx_diffusion.display import count_of
from mlx_diffusion.fit.products import EXPERTS, HEAD, ROUTER, Formats, Product, layer_products
from mlx_diffusion.measure.device.matrices import Matrix, numbers
from mlx_diffusion.measure.device.trial import WIDTHS, Distance, Extent, KernelTrial, TrialSetup, distance, tried
from mlx_diffusion.network.head import Rows
from mlx_diffusion.tuning import DTYPES

ROWS = 4  # of a result that are held against float64
LEAST_COLUMNS = 64


def shapes_of(config: ModelConfig, formats: Formats) -> list[Product]:
    """The products of a pass, one of each shape and format; experts have trials of their own."""
    kinds = [config.layer_types.index(kind) for kind in (SLIDING, FULL) if kind in config.layer_types]
    found = [product for index in kinds for product in layer_products(config, formats, index, max(WIDTHS))]
    found.append(Product(HEAD, max(WIDTHS), config.hidden_size, config.vocab_size, formats("embed_tokens")))
    shapes = {(one.inner, one.outer, one.spec): one for one in found if one.part != EXPERTS}
    return list(shapes.values())


class ProductTrials:
    """The trials of one shape and format."""

    def __init__(self, shape: Product, extent: Extent, dtypes: Iterable[str], top: int) -> None:
        """top: how many experts a router chooses, of which twins are held against each other, too."""
        self.shape, self.top = shape, top if shape.part == ROUTER else 0
        self.outer = shape.outer if self.top else extent.of(shape.outer, 2 * max(WIDTHS) * shape.inner, LEAST_COLUMNS)
        self.dtypes = dict.fromkeys([*dtypes, *(["float32"] if self.top else [])])

    def setups(self) -> list[TrialSetup]:
        """What is tried, in order."""
        shape = self.shape
        held = "floating point" if shape.spec is None else f"{shape.spec.mode} {shape.spec.bits} bits"
        part = f"{shape.part} {shape.inner} by {shape.outer}"
        return [TrialSetup(part, held, dtype, width) for dtype in self.dtypes for width in WIDTHS]

    def flops(self, setup: TrialSetup) -> int:
        """Operations of one run."""
        return 2 * setup.width * self.shape.inner * self.outer

    def run(self, setup: TrialSetup, allowed: float) -> KernelTrial:
        """Make one of them in about `allowed` seconds."""
        x, matrix = self._operands
        arrays, dtype = matrix.arrays(DTYPES[setup.dtype]), DTYPES[setup.dtype]
        rows = Rows(arrays["weight"], arrays.get("scales"), arrays.get("biases"), self.shape.spec)
        some = x[: setup.width].astype(dtype)
        cut = "" if self.outer == self.shape.outer else f"{self.outer:,} of {count_of(self.shape.outer, 'column')}"
        return tried(setup, lambda: rows.project(some), self._judge, self.flops(setup), allowed, cut)

    @cached_property
    def _operands(self) -> tuple[mx.array, Matrix]:
        inner = self.shape.inner
        return numbers((max(WIDTHS), inner), 0), Matrix.random((self.outer, inner), self.shape.spec, 1)

    @cached_property
    def _twin(self) -> np.ndarray:
        x, matrix = self._operands
        columns = self.outer if self.top else LEAST_COLUMNS
        exact: np.ndarray = np.array(x[: self._rows]).astype(np.float64) @ matrix.exact(slice(0, columns)).T
        return exact

    @property
    def _rows(self) -> int:
        return max(WIDTHS) if self.top else ROWS

    def _judge(self, made: mx.array) -> Distance:
        rows = min(made.shape[0], self._rows)
        own, twin = made[:rows, : self._twin.shape[1]], self._twin[:rows]
        if not self.top:
            return distance(own, twin)
        best = np.argsort(np.array(own.astype(mx.float32)), axis=-1)[:, -self.top :]
        right = np.argsort(twin, axis=-1)[:, -self.top :]
        other = int((np.sort(best, axis=-1) != np.sort(right, axis=-1)).any(axis=-1).sum())
        return distance(own, twin, f"other experts at {other} of {count_of(rows, 'position')}")
