"""Macs by their memory, and the share of it that the GPU may use.

A process that uses more is slowed down or ended. macOS sets the share, and newer releases give more.
Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Mac:
    """A memory size, and the GPU's share on older and on newer macOS."""

    memory_gib: int
    older_bytes: int
    newer_bytes: int


def _mac(memory_gib: int, older_gb: float, newer_gb: float) -> Mac:
    return Mac(memory_gib, round(older_gb * 1e9), round(newer_gb * 1e9))


# Up to 48 GB: Metal's recommendation. Above: three quarters; newer systems give no less.
MACS = (
    _mac(16, 11.5, 12.7),
    _mac(24, 17.2, 19.1),
    _mac(32, 22.9, 26.8),
    _mac(36, 29.0, 30.0),
    _mac(48, 38.7, 40.0),
    *(Mac(gib, gib * GIB * 3 // 4, gib * GIB * 3 // 4) for gib in (64, 96, 128)),
)


def gpu_bytes(memory_gib: int) -> int:
    """What the GPU may use of that much memory on newer macOS: of a size in between, the share of the one below."""
    if memory_gib >= MACS[-1].memory_gib:
        return memory_gib * GIB * 3 // 4
    sizes = [mac for mac in MACS if mac.memory_gib <= memory_gib]
    return sizes[-1].newer_bytes if sizes else memory_gib * GIB // 2
