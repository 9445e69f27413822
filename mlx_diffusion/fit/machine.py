"""Facts of this machine: chip, memory, the GPU's share of it, system, versions, disk.

What cannot be found out is None; nothing here raises an error. Knows nothing of checkpoints.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion import __version__
from mlx_diffusion.fit.disk import free_bytes
from mlx_diffusion.fit.machine_memory import MachineMemory, memory_here
from mlx_diffusion.fit.sysctl import sysctl

PACKAGES = ("mlx", "mlx-lm", "transformers", "huggingface_hub", "numpy")


@dataclass(frozen=True)
class Machine:
    """The facts that a bug report needs."""

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
    def memory(self) -> MachineMemory:
        """The facts that decide whether a model fits."""
        return MachineMemory(self.device, self.memory_bytes, self.gpu_bytes)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def this_machine(folder: Path | None = None) -> Machine:
    """The facts of this machine; the disk is that of `folder`, by default the current one."""
    memory = memory_here()
    return Machine(
        chip=chip_name(),
        memory_bytes=memory.memory_bytes,
        gpu_bytes=memory.gpu_bytes,
        device=memory.device,
        cpus=os.cpu_count(),
        system=f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.platform(),
        python=platform.python_version(),
        packages={"mlx-diffusion": __version__, **{name: _version(name) for name in PACKAGES}},
        disk_free_bytes=free_bytes(folder or Path(".")) or None,
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def chip_name() -> str | None:
    """The name of the processor, as the system says it: "Apple M4 Pro"."""
    if sys.platform == "darwin":
        return sysctl("machdep.cpu.brand_string")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine() or None
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine() or None
