"""MLX's memory limits for the time that something runs: set when the first run begins, put back when the last ends.

Knows nothing of what runs. Runs may overlap in any order, since each is a generator that its reader closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx

from mlx_diffusion.processes import computing

CACHE_BYTES = 1_000_000_000  # of freed buffers that MLX may keep for reuse; a step's largest arrays are a fifth of it

_running = 0
_before: list[tuple[Callable[[int], int], int]] = []


@contextmanager
def memory_limits() -> Iterator[None]:
    """Hold the buffer cache small and, on Metal, wire what the GPU may use, so that macOS does not page weights out."""
    _begin()
    try:
        yield
    finally:
        _end()


@computing()
def _begin() -> None:
    global _running
    if not _running:
        _before[:] = [(mx.set_cache_limit, mx.set_cache_limit(CACHE_BYTES))]
        if mx.metal.is_available():
            most = int(mx.device_info()["max_recommended_working_set_size"])
            _before.append((mx.set_wired_limit, mx.set_wired_limit(most)))
    _running += 1


@computing()
def _end() -> None:
    global _running
    _running -= 1
    if not _running:
        mx.synchronize()
        for put_back, value in _before:
            put_back(value)
