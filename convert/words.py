"""Formats and sizes in words, for cards and terminals."""

from __future__ import annotations

from mlx_diffusion.quantization import QuantSpec


def spec_text(spec: QuantSpec | None) -> str:
    """A format in words."""
    if spec is None:
        return "bf16"
    return f"{spec.bits} bits, groups of {spec.group_size}" if spec.mode == "affine" else spec.mode


def size_text(nbytes: float) -> str:
    """Bytes in GB, MB or kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes / 1e3:.2f} kB"
