"""The memory of this machine, and the share of it that a model may take.

What cannot be found out is None; nothing here raises an error. Knows nothing of models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_diffusion.device import on_cpu
from mlx_diffusion.fit.sysctl import sysctl


@dataclass(frozen=True)
class MachineMemory:
    """The facts that decide whether a model fits."""

    device: str  # "gpu" or "cpu", where MLX computes
    memory_bytes: int | None
    gpu_bytes: int | None  # what the GPU may use of it; None where MLX runs on the CPU

    @property
    def usable_bytes(self) -> int | None:
        """Memory that a model may take: the GPU's share, or on a CPU what the system can spare."""
        if self.device == "gpu":
            return self.gpu_bytes
        return None if self.memory_bytes is None else self.memory_bytes * 3 // 4


def memory_here() -> MachineMemory:
    """The memory of this machine."""
    if on_cpu():
        return MachineMemory("cpu", _physical_bytes(), None)
    facts = _device_facts()
    share = facts.get("max_recommended_working_set_size", facts.get("memory_size"))
    return MachineMemory("gpu", _physical_bytes(), share)


def _device_facts() -> Mapping[str, Any]:
    try:
        return mx.device_info()
    except (RuntimeError, ValueError):
        return {}


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        size = sysctl("hw.memsize")
        return int(size) if size and size.isdecimal() else None
