"""The differences between a CPU and a GPU: types, layouts of matrices, use of all cores, memory held at once.

Knows nothing of what is computed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from itertools import cycle
from typing import Any, TypeVar

import mlx.core as mx

After = Callable[[list[mx.array], list[mx.array]], list[mx.array]]  # (arrays, earlier ones) -> arrays that come after

LEAST_WORK = 2**24  # multiplications in a product, some milliseconds of work; smaller ones are not worth splitting
LEAST_BYTES = 2**18  # of an array; waiting until smaller ones are freed costs time and does not lower the peak

Result = TypeVar("Result")
Arrays = TypeVar("Arrays", bound=Any)  # an array, or a named tuple of arrays

_assumed_gpu = ContextVar("_assumed_gpu", default=False)
_is_spread = ContextVar("_is_spread", default=False)  # this is a task of `spread`


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


def spread(tasks: Sequence[Callable[[], Result]], work: int) -> list[Result]:
    """What the tasks give, lazily: on a CPU on all cores in turn if their `work`, in multiplications, is worth it.

    On a CPU, MLX runs everything in one stream on one core. Here each core has a stream of its own; the bits are the
    same. What is spread within a task stays on the core of that task.
    """
    if not on_cpu() or work < LEAST_WORK or len(tasks) == 1 or cores() == 1 or _is_spread.get():
        return [task() for task in tasks]
    token, results = _is_spread.set(True), []
    try:
        for task, stream in zip(tasks, cycle(_streams()), strict=False):
            with mx.stream(stream):
                results.append(task())
    finally:
        _is_spread.reset(token)
    return results


def over_cores(product: Callable[..., Arrays], work: int, *arrays: mx.array, axis: int = 0) -> Arrays:
    """`product(*arrays)`, `spread` over the cores: each gets a part of the arrays, cut along `axis`.

    It must be an axis of the results too, which are an array or a named tuple of arrays.
    """
    rows = arrays[0].shape[axis]
    count = min(cores(), rows)
    if not on_cpu() or work < LEAST_WORK or count == 1 or _is_spread.get():
        return product(*arrays)
    cuts = [rows * part // count for part in range(1, count)]
    parts = zip(*(mx.split(array, cuts, axis) for array in arrays), strict=True)
    results: list[Any] = spread([partial(product, *own) for own in parts], work)
    if isinstance(results[0], mx.array):
        return mx.concatenate(results, axis)  # type: ignore[return-value]  # the product gives arrays
    joined: Arrays = type(results[0])(*(mx.concatenate(list(own), axis) for own in zip(*results, strict=True)))
    return joined


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
