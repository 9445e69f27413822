"""Macs by their memory, and what of it the GPU may use.

A process that goes past this share is slowed down or ended. The share is macOS's choice: newer releases give more.
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


# Up to 48 GB as Metal recommends; above that three quarters, which newer systems do not go below.
MACS = (
    _mac(16, 11.5, 12.7),
    _mac(24, 17.2, 19.1),
    _mac(32, 22.9, 26.8),
    _mac(36, 29.0, 30.0),
    _mac(48, 38.7, 40.0),
    *(Mac(gib, gib * GIB * 3 // 4, gib * GIB * 3 // 4) for gib in (64, 96, 128)),
)
