"""Facts of this machine: chip, memory, the GPU's share of it, system, versions, disk.

What cannot be found out is None; nothing here raises an error. Knows nothing of checkpoints.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_diffusion import __version__
from mlx_diffusion.device import on_cpu
from mlx_diffusion.fit.disk import free_bytes

PACKAGES = ("mlx", "mlx-lm", "transformers", "huggingface_hub", "numpy")


@dataclass(frozen=True)
class Machine:
    """The facts that decide what runs, and that belong into a bug report."""

    chip: str | None
    memory_bytes: int | None
    gpu_bytes: int | None  # what the GPU may use of it; None where MLX runs on the CPU
    device: str  # "gpu" or "cpu", where MLX computes
    cpus: int | None
    system: str
    python: str
    packages: Mapping[str, str | None]
    disk_free_bytes: int | None

    @property
    def usable_bytes(self) -> int | None:
        """Memory that a model may take: the GPU's share, or on a CPU what the system can spare."""
        if self.device == "gpu":
            return self.gpu_bytes
        return None if self.memory_bytes is None else self.memory_bytes * 3 // 4

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def this_machine(folder: Path | None = None) -> Machine:
    """The facts of this machine; the disk is that of `folder`, by default the current one."""
    on_gpu = not on_cpu()
    facts = _device_facts()
    return Machine(
        chip=_chip(),
        memory_bytes=_memory(),
        gpu_bytes=facts.get("max_recommended_working_set_size", facts.get("memory_size")) if on_gpu else None,
        device="gpu" if on_gpu else "cpu",
        cpus=os.cpu_count(),
        system=f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.platform(),
        python=platform.python_version(),
        packages={"mlx-diffusion": __version__, **{name: _version(name) for name in PACKAGES}},
        disk_free_bytes=_free(folder or Path(".")),
    )


def _device_facts() -> Mapping[str, Any]:
    try:
        return mx.device_info()
    except (RuntimeError, ValueError):
        return {}


def _free(folder: Path) -> int | None:
    try:
        return free_bytes(folder)
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _chip() -> str | None:
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine() or None
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        size = _sysctl("hw.memsize")
        return int(size) if size and size.isdecimal() else None


def _sysctl(name: str) -> str | None:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
