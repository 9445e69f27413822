"""Trials of the limits of Metal's command buffers, each in a process of its own: MLX reads them when it is imported.

Knows nothing of models: a chain of small operations stands for a pass, which has some forty launches a layer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import mlx.core as mx

VARIABLE = "MLX_MAX_OPS_PER_BUFFER"
LIMITS = (None, 20, 100, 200, 400)  # operations a buffer; None: what MLX takes for this chip
LAUNCHES, RUNS, LONGEST = 1200, 5, 20.0
SIDE = 512


@dataclass(frozen=True)
class BufferTrial:
    """The seconds of the chain with a limit."""

    limit: int | None
    seconds: float | None  # None where the process failed


def buffer_trials() -> tuple[BufferTrial, ...]:
    """One for each limit; none where MLX does not run on Metal."""
    return tuple(BufferTrial(limit, _seconds(limit)) for limit in LIMITS) if mx.metal.is_available() else ()


def _seconds(limit: int | None) -> float | None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if limit is not None:
        environment[VARIABLE] = str(limit)
    try:
        command = [sys.executable, "-m", __spec__.name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=True)
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def chain_seconds() -> float:
    """The least seconds of some runs of the chain."""
    x = mx.ones((SIDE,))
    best = float("inf")
    for _ in range(RUNS):
        started = time.perf_counter()
        y = x
        for _ in range(LAUNCHES):
            y = mx.sin(y)
        mx.eval(y)
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    print(chain_seconds())
