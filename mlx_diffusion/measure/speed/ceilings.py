"""The ceilings of the device: the rates of matrix products in the shapes and formats of a pass, and of a plain copy.

The kernels are MLX's, each run alone and on warm memory, so a pass cannot be faster than its products together. Large
matrices are cut to a size that takes the device about a twentieth of a second. Knows nothing of models beyond these
shapes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import packed
from mlx_diffusion.device import over_cores, transposed
from mlx_diffusion.display import count_of
from mlx_diffusion.fit.cost import PassCost
from mlx_diffusion.fit.products import EXPERTS, Product
from mlx_diffusion.network.head import Rows

REPEATS = 5
LEAST_SECONDS = 0.02  # a measurement repeats its product until it has taken this long
MOST_SECONDS = 0.05  # of one product; larger ones are cut
LEAST_SIDE = 512  # products are cut to multiples of it; every group size divides it
COPY_BYTES = 1 << 27
DENSE_SIDE = 256  # the dense product begins here and doubles until it takes MOST_SECONDS


@dataclass(frozen=True)
class Shape:
    """The shape and format of a product; matrices that share one are measured once."""

    rows: int
    inner: int
    outer: int
    spec: QuantSpec | None
    experts: int  # 0 where there is one matrix for all rows
    transposed: bool  # [rows, inner] by a matrix stored as [outer, inner], the usual case

    @classmethod
    def of(cls, product: Product) -> Shape:
        """The shape that decides the rate of a product."""
        experts = round(product.matrices) if product.part == EXPERTS else 0
        transposed = product.reads_weights  # only the soft embedding reads the table the other way
        return cls(product.rows, product.inner, product.outer, product.spec, experts, transposed)

    def label(self) -> str:
        held = "floating point" if self.spec is None else f"{self.spec.mode} {self.spec.bits} bits"
        over = f" over {count_of(self.experts, 'expert')}" if self.experts else ""
        return f"[{self.rows}, {self.inner}] by [{self.inner}, {self.outer}]{over}, {held}"


@dataclass(frozen=True)
class Ceilings:
    """Measured rates: operations a second of a large dense product and of each shape, bytes a second of a copy."""

    dense_flops: float
    copy_bytes: float
    shapes: dict[Shape, float]

    def compute_seconds(self, cost: PassCost) -> float:
        """The time of a pass: its products at the rates of their shapes, its other operations at the dense rate."""
        rest = cost.attention_flops + cost.sampler_flops
        return rest / self.dense_flops + sum(p.flops / self.shapes[Shape.of(p)] for p in cost.products)

    def as_dict(self) -> dict[str, Any]:
        return {
            "dense_gflops": self.dense_flops / 1e9,
            "copy_gb_per_second": self.copy_bytes / 1e9,
            "product_gflops": {shape.label(): rate / 1e9 for shape, rate in self.shapes.items()},
        }


def measure_ceilings(costs: Iterable[PassCost], dtype: mx.Dtype, report: Callable[[str], None]) -> Ceilings:
    """Measure the device for these passes, with activations of `dtype`; `report` is told what is being measured."""
    report("measuring the device: copy and dense product")
    copy, dense = _copy_rate(), _dense_rate(dtype)
    shapes = {}
    for shape in dict.fromkeys(Shape.of(product) for cost in costs for product in cost.products):
        report(f"measuring the device: {shape.label()}")
        shapes[shape] = _product_rate(shape, dtype, dense * MOST_SECONDS)
        mx.clear_cache()
    return Ceilings(dense, copy, shapes)


def _seconds(run: Callable[[], mx.array]) -> float:
    """The seconds of one run: the least of REPEATS measurements, after one that is not counted."""
    mx.eval(run())
    times = 1
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(times):
            mx.eval(run())
        taken = (time.perf_counter() - started) / times
        best = min(best, taken)
        times = max(1, round(LEAST_SECONDS / best))
    return best


def _copy_rate() -> float:
    """Bytes read and written a second."""
    source = mx.ones((COPY_BYTES // 4,), dtype=mx.float32)
    mx.eval(source)
    return 2 * COPY_BYTES / _seconds(lambda: mx.negative(source))


def _dense_rate(dtype: mx.Dtype) -> float:
    side = DENSE_SIDE
    while True:
        a, b = _random((side, side), dtype, 0), _random((side, side), dtype, 1)
        seconds = _seconds(lambda a=a, b=b: a @ b)  # type: ignore[misc]
        if seconds >= MOST_SECONDS:
            return 2 * side**3 / seconds
        side *= 2


def _product_rate(shape: Shape, dtype: mx.Dtype, budget: float) -> float:
    """Operations a second of products of this shape, cut to at most `budget` operations."""
    inner, outer = shape.inner, shape.outer
    share = min(1.0, budget / (2 * shape.rows * inner * outer))
    if shape.experts:
        return _experts_rate(shape, dtype, share)
    if shape.transposed:
        outer = min(outer, max(LEAST_SIDE, _rounded(outer * share)))
        stored = (outer, inner)
    else:  # the long axis is the inner one
        inner = min(inner, max(LEAST_SIDE, _rounded(inner * share)))
        stored = (inner, outer)
    x = _random((shape.rows, inner), dtype, 0)
    matrix = _Matrix(stored, shape.spec, dtype)
    return 2 * shape.rows * inner * outer / _seconds(lambda: matrix.multiply(x, shape.transposed))


def _experts_rate(shape: Shape, dtype: mx.Dtype, share: float) -> float:
    """The same for sorted rows, as many for each expert as in the pass; over fewer experts if all take too long."""
    experts = max(1, min(shape.experts, round(shape.experts * share)))
    each = max(1, round(shape.rows / shape.experts))
    x = _random((experts * each, 1, shape.inner), dtype, 0)
    chosen = mx.repeat(mx.arange(experts, dtype=mx.uint32), each)
    matrix = _Matrix((experts, shape.outer, shape.inner), shape.spec, dtype)
    return 2 * experts * each * shape.inner * shape.outer / _seconds(lambda: matrix.multiply_chosen(x, chosen))


class _Matrix:
    """Random matrices in a format, and products of rows with them."""

    def __init__(self, stored: tuple[int, ...], spec: QuantSpec | None, dtype: mx.Dtype) -> None:
        self.spec = spec
        self.weight = _random(stored, dtype, 2)
        self.scales: mx.array | None = None
        self.biases: mx.array | None = None  # of affine formats
        if spec is None:
            self.weight = transposed(self.weight).swapaxes(-1, -2)  # as `weights.fill` lays them out
        else:
            self.weight, self.scales, *biases = packed(self.weight, spec)
            self.biases = biases[0] if biases else None
        mx.eval(self.weight, self.scales, self.biases)

    def multiply(self, x: mx.array, transposed: bool) -> mx.array:
        rows = Rows(self.weight, self.scales, self.biases, self.spec)
        return rows.project(x) if transposed else rows.mix(x)

    def multiply_chosen(self, x: mx.array, chosen: mx.array) -> mx.array:
        return over_cores(self._multiply_chosen, x.size * self.weight.shape[1], x, chosen)

    def _multiply_chosen(self, x: mx.array, chosen: mx.array) -> mx.array:
        if self.spec is None or self.scales is None:
            return mx.gather_mm(x, self.weight.swapaxes(-1, -2), rhs_indices=chosen, sorted_indices=True)
        return mx.gather_qmm(
            x, self.weight, self.scales, self.biases, rhs_indices=chosen, transpose=True, sorted_indices=True,
            group_size=self.spec.group_size, bits=self.spec.bits, mode=self.spec.mode,
        )  # fmt: skip


def _random(shape: tuple[int, ...], dtype: mx.Dtype, seed: int) -> mx.array:
    values = mx.random.normal(shape, dtype=mx.float32, key=mx.random.key(seed)).astype(dtype)
    mx.eval(values)
    return values


def _rounded(size: float) -> int:
    """The size, rounded down to a multiple of LEAST_SIDE."""
    return int(size) // LEAST_SIDE * LEAST_SIDE
