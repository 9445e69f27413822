"""The settings of this device: how matrices are multiplied on it, by its chip or as a check of it has found best.

`mlx-diffusion doctor --check` keeps them in the program's state folder; they hold for the chip and the version of MLX
that they were measured with, and others take their own defaults. Knows nothing of what is computed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from mlx_diffusion.device import on_cpu
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.state import StateError, make_state_folder, state_folder
from mlx_diffusion.typed_json import from_json
from mlx_diffusion.whole_files import write_whole

FILE = "device.json"
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
FIRST_WITH_BFLOAT16 = 15  # of Apple's GPU generations: 13 is M1, 14 is M2, 15 is M3
WIDEST_SORT = 1 << 20  # positions; passes are never that wide


@dataclass(frozen=True)
class Tuning:
    """How a model is computed here. Raises ValueError for settings that cannot be."""

    projections: str | None = None  # the type of all large products; None: that of the residual stream
    sort_from: int = 0  # positions of a pass from which on its rows are sorted by expert
    fused_heads: tuple[int, ...] | None = None  # head sizes with one fused attention; None: all that have a kernel

    def __post_init__(self) -> None:
        if self.projections not in (None, *DTYPES):
            raise ValueError(f"projections is {self.projections!r}, not one of {', '.join(DTYPES)}")
        if not 0 <= self.sort_from <= WIDEST_SORT:
            raise ValueError(f"sort_from is {self.sort_from}, not 0 to {WIDEST_SORT} positions")

    @property
    def projection_dtype(self) -> mx.Dtype | None:
        return None if self.projections is None else DTYPES[self.projections]


@dataclass(frozen=True)
class Kept:
    """Settings, and what they were measured on."""

    chip: str
    mlx: str
    tuning: Tuning

    @classmethod
    def here(cls, tuning: Tuning) -> Kept:
        """Settings of this device and this version of MLX."""
        return cls(device_name(), version("mlx"), tuning)

    @property
    def is_of_this_device(self) -> bool:
        return (self.chip, self.mlx) == (device_name(), version("mlx"))


_used: ContextVar[Tuning | None] = ContextVar("_used", default=None)


def tuning() -> Tuning:
    """The settings in force: those kept for this device, else its defaults. Raises StateError for a damaged file."""
    return _used.get() or _of_this_process()


@contextmanager
def using(other: Tuning) -> Iterator[None]:
    """Compute with other settings, in this context: for those who measure or emulate a device."""
    token = _used.set(other)
    try:
        yield
    finally:
        _used.reset(token)


def default_tuning() -> Tuning:
    """float16 products on M1 and M2, whose bf16 is emulated."""
    generation = re.search(r"applegpu_g(\d+)", str(mx.device_info().get("architecture", "")))
    if not on_cpu() and generation and int(generation[1]) < FIRST_WITH_BFLOAT16:
        return Tuning("float16")
    return Tuning()


def device_name() -> str:
    """The device that MLX computes on, as MLX calls it."""
    return str(mx.device_info().get("device_name", "unknown"))


def kept_file() -> Path:
    """Where settings are kept. Raises StateError where no home folder is known."""
    return state_folder(os.environ) / FILE


def read_kept() -> Kept | None:
    """The settings that were kept, for whichever device; None where there are none. Raises StateError."""
    try:
        file = kept_file()
        content = file.read_bytes()
    except (OSError, StateError):
        return None
    try:
        return from_json(Kept, bounded_json(content))
    except ValueError as error:
        raise StateError(f"{file} holds no settings ({error}); remove it and check the device again") from None


def keep(kept: Kept) -> Path:
    """Keep settings for later runs; returns their file. Raises StateError where it cannot be written."""
    file = kept_file()
    make_state_folder(file.parent)
    write_whole(file, (json.dumps(asdict(kept), indent=2) + "\n").encode(), error=StateError)
    return file


@cache
def _of_this_process() -> Tuning:
    kept = read_kept()
    return kept.tuning if kept is not None and kept.is_of_this_device else default_tuning()
