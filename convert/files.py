"""Small files written whole or not at all, folders locked, the errors of the file system as lines.

Knows nothing of checkpoints.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_diffusion.errors import ConversionError

PART = ".part"  # behind the name of a file that is being written


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that at any moment either the old or the new content is there, also if the power fails."""
    part = file.with_name(file.name + PART)
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        flush(stream.fileno())
    os.replace(part, file)
    flush_folder(file.parent)


def flush(descriptor: int) -> None:
    """Wait until all that was written is on the disk, and let the system forget it."""
    os.fsync(descriptor)
    forget(descriptor)


def forget(descriptor: int, end: int = 0) -> None:
    """Let the system use the memory in which it keeps a file, up to `end` (0: all of it), for what comes next.

    A checkpoint read and written once would push all else out of the system's cache, and memory that is used again
    is ready sooner than new memory. macOS is told once for a file: see `uncached`.
    """
    if sys.platform == "linux":
        os.posix_fadvise(descriptor, 0, end, os.POSIX_FADV_DONTNEED)


def uncached(descriptor: int) -> int:
    """The descriptor, its file kept out of the cache where the system can be told so beforehand."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
    return descriptor


def flush_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against a second process; the lock goes with the process, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConversionError(f"{folder}: another conversion is writing here; wait for it, or end it") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def errors_of(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a ConversionError of one line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = "free some and run the same command: it goes on from the last finished file"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            remedy = "once that is mended, the same command goes on from the last finished file"
        raise ConversionError(f"{error.filename or folder}: {reason}; {remedy}") from None


def free_bytes(folder: Path) -> int:
    """Free space of the disk that a folder lies on, or will lie on."""
    return shutil.disk_usage(_there(folder)).free


def same_disk(folder: Path, other: Path) -> bool:
    """Whether two folders lie on one disk, or will lie there."""
    return _there(folder).stat().st_dev == _there(other).stat().st_dev


def _there(folder: Path) -> Path:
    """The folder, or what is there of the way to it."""
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
