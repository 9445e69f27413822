"""The differences between a CPU and a GPU: types, layouts of matrices, use of all cores, memory held at once.

Knows nothing of what is computed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import mlx.core as mx

After = Callable[[list[mx.array], list[mx.array]], list[mx.array]]  # (arrays, earlier ones) -> arrays that come after

LEAST_WORK = 2**24  # multiplications in a product, some milliseconds of work; smaller ones are not worth splitting
LEAST_BYTES = 2**18  # of an array; waiting until smaller ones are freed costs time and does not lower the peak


_assumed_gpu = ContextVar("_assumed_gpu", default=False)


def on_cpu() -> bool:
    """True if MLX computes on a CPU."""
    return not _assumed_gpu.get() and mx.default_device() == mx.Device(mx.cpu)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Build graphs as for a GPU, wherever this is: for those who count what a GPU would run."""
    token = _assumed_gpu.set(True)
    try:
        yield
    finally:
        _assumed_gpu.reset(token)


def activation_dtype() -> mx.Dtype:
    """float32 on a CPU, whose bf16 kernels accumulate in bf16; bfloat16 on a GPU."""
    return mx.float32 if on_cpu() else mx.bfloat16


def transposed(matrix: mx.array) -> mx.array:
    """A matrix [..., N, K] as a right operand, [..., K, N]: a view on a GPU, contiguous rows on a CPU.

    On a CPU, MLX multiplies with a BLAS that takes 1.5 to 2.5 times as long with a view, and gives the same bits. Metal
    and CUDA read both equally fast.
    """
    view = matrix.swapaxes(-1, -2)
    return mx.contiguous(view) if on_cpu() else view


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1


def over_cores(product: Callable[..., mx.array], work: int, *arrays: mx.array, axis: int = 0) -> mx.array:
    """`product(*arrays)`, on all cores of a CPU if its `work`, in multiplications, is worth it; the bits are the same.

    On a CPU, MLX runs everything in one stream on one core. Here each core has a stream of its own and gets a part of
    the arrays, cut along `axis`, which must be an axis of the result too.
    """
    rows = arrays[0].shape[axis]
    count = min(cores(), rows)
    if not on_cpu() or work < LEAST_WORK or count == 1:
        return product(*arrays)
    cuts = [rows * part // count for part in range(1, count)]
    results = []
    for stream, *parts in zip(_streams()[:count], *(mx.split(array, cuts, axis) for array in arrays), strict=True):
        with mx.stream(stream):
            results.append(product(*parts))
    return mx.concatenate(results, axis)


@cache
def _streams() -> list[mx.ThreadLocalStream]:
    """One stream a core, to be used from any thread."""
    return [mx.new_thread_local_stream(mx.cpu) for _ in range(cores())]


def evaluated_after(arrays: list[mx.array], earlier: list[mx.array]) -> list[mx.array]:
    """Evaluate `earlier` and return `arrays`: takes the place of `mx.depends` on a CPU, outside of traces.

    On a CPU, MLX allocates the results of some hundred primitives ahead of the one that runs, whatever they depend on.
    """
    mx.eval(earlier)
    return arrays
