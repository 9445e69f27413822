"""speed.json: the levers of denoising that hold on a checkpoint, as a calibration found them.

It lies in the checkpoint's folder, or in the program's state folder where that one may not be written. Knows nothing of
how it was measured.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.fingerprint import fingerprint
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.json_files import read_json
from mlx_diffusion.modes import LEVERS, SAFE_LEVERS, Mode
from mlx_diffusion.option_checks import checked
from mlx_diffusion.state import StateError, state_folder

SPEED_FILE = "speed.json"
KIND, VERSION = "mlx-diffusion speed", 1
CALIBRATED = (*LEVERS, "max_denoising_steps")  # the options that a calibration may find
Levers = Mapping[str, float]


class HeldLevers:
    """The levers of each mode on the checkpoint in a folder, looked up when a mode first wants them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, mode: Mode) -> Levers:
        """The options that the mode takes where nobody says otherwise. A file that is no use is warned of, once."""
        return self._by_mode[mode] if mode in SAFE_LEVERS else {}

    @cached_property
    def _by_mode(self) -> Mapping[Mode, Levers]:
        try:
            found = read_speed(self.folder)
        except CheckpointError as error:
            warnings.warn(str(error), UserWarning, stacklevel=2)
            found = None
        return SAFE_LEVERS if found is None else found


def read_speed(folder: Path) -> Mapping[Mode, Levers] | None:
    """The levers of each mode, as the file of this checkpoint says; None where there is no file.

    Raises `CheckpointError` for a file that is damaged, of another checkpoint or of a later version.
    """
    file = folder / SPEED_FILE
    if not file.is_file():
        kept = state_file(folder)
        if kept is None or not kept.is_file():
            return None
        file = kept
    try:
        content = read_json(file)
        _check_version(content)
        levers = {mode: _checked_levers(content["modes"][mode]) for mode in SAFE_LEVERS}
    except (CheckpointError, OptionError, KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{file} is damaged{_remedy(folder)}") from None
    except _LaterError:
        raise CheckpointError(f"{file} is of a later version of mlx-diffusion{_remedy(folder)}") from None
    if content.get("checkpoint") != fingerprint(folder):
        raise CheckpointError(f"{file} was measured on another checkpoint{_remedy(folder)}")
    return levers


def state_file(folder: Path) -> Path | None:
    """The file that stands for a checkpoint whose folder may not be written; None where nothing is kept at all."""
    try:
        kept = state_folder(os.environ) / "speed"
    except StateError:
        return None
    if not kept.is_dir():
        return None
    return kept / f"{fingerprint(folder)}.json"


class _LaterError(Exception):
    """The file's version is not known here."""


def _check_version(content: Mapping[str, Any]) -> None:
    kind, _, version = str(content["format"]).rpartition(" ")
    if kind != KIND or not version.isdecimal():
        raise ValueError(kind)
    if int(version) != VERSION:
        raise _LaterError


def _checked_levers(content: Mapping[str, Any]) -> Levers:
    levers: dict[str, float] = {}
    for name, value in content.items():
        if name not in CALIBRATED or value is None:
            raise ValueError(name)
        number: Any = checked(name, value)
        levers[name] = number
    return levers


def _remedy(folder: Path) -> str:
    return (
        "; the levers that held on every checkpoint are used; to measure this one: "
        f"mlx-diffusion eval --calibrate --model {folder}"
    )
