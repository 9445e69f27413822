"""The disk that a folder lies on, or will lie on once it is made. Knows nothing of what is written there."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Free space of the folder's disk; 0 where it does not say, as some shares and mounts do."""
    try:
        return shutil.disk_usage(_nearest_that_exists(folder)).free
    except OSError:
        return 0


def same_disk(folder: Path, other: Path) -> bool:
    """True if two folders lie on one disk."""
    return _nearest_that_exists(folder).stat().st_dev == _nearest_that_exists(other).stat().st_dev


def _nearest_that_exists(folder: Path) -> Path:
    """The folder itself, or the first of its parents that is there."""
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
