"""What a CPU wants otherwise than a GPU: other types and layouts, all cores set to work, and less in memory at once.

Knows nothing of what is computed.
"""

import os
from collections.abc import Callable
from functools import cache

import mlx.core as mx

LEAST_WORK = 2**24  # multiplications of a product, some milliseconds: handing over less to another core does not pay
LEAST_BYTES = 2**18  # of an array: to wait until smaller ones are gone costs time and does not lower the peak


def on_cpu() -> bool:
    """Whether arrays are computed on a CPU."""
    return mx.default_device() == mx.Device(mx.cpu)


def activation_dtype() -> mx.Dtype:
    """float32 on a CPU, whose bf16 kernels accumulate in bf16; bfloat16 on a GPU."""
    return mx.float32 if on_cpu() else mx.bfloat16


def transposed(matrix: mx.array) -> mx.array:
    """[..., N, K] as a right operand, [..., K, N]: a view, but on a CPU its rows always lie in one piece.

    MLX's products on a CPU come from a BLAS that is 1.5 to 2.5 times slower on such a view, to the same bits; Metal and
    CUDA read both alike.
    """
    view = matrix.swapaxes(-1, -2)
    return mx.contiguous(view) if on_cpu() else view


def cores() -> int:
    """How many of the CPU's cores this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1


def over_cores(product: Callable[..., mx.array], work: int, *arrays: mx.array, axis: int = 0) -> mx.array:
    """product(*arrays), to the same bits; where it has `work` multiplications enough, on all cores of a CPU.

    On a CPU, MLX runs what is in one stream on one core. Here each core has a stream, and gets a part of the arrays
    along an axis that is the result's, too.
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
    """One a core, in any thread."""
    return [mx.new_thread_local_stream(mx.cpu) for _ in range(cores())]


def evaluated_after(arrays: list[mx.array], earlier: list[mx.array]) -> list[mx.array]:
    """`mx.depends` for a CPU, outside of traces: arrays that come after earlier ones, which are evaluated now.

    There MLX allocates some hundred primitives ahead of the one that it runs, whatever they depend on.
    """
    mx.eval(earlier)
    return arrays
