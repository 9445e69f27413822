"""Keeps large files, which are read and written once, out of the system's file cache.

A whole checkpoint would push all else out of that cache; and memory that is used again is available sooner than new
memory. Knows nothing of what is in the files.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress

from mlx_diffusion.whole_files import flush_open


def flush_and_forget(descriptor: int) -> None:
    """Wait until all that was written is on the disk, and free the memory that caches it."""
    flush_open(descriptor)
    forget(descriptor)


def forget(descriptor: int, end: int = 0) -> None:
    """Free the memory that caches a file, up to the offset `end` (0: all of it).

    Works on Linux only; on macOS a file is kept out of the cache from the start, see `uncached`.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # advice, which some file systems do not take
            os.posix_fadvise(descriptor, 0, end, os.POSIX_FADV_DONTNEED)


def uncached(descriptor: int) -> int:
    """The same descriptor; on macOS, its file stays out of the cache from now on."""
    if sys.platform == "darwin":
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
    return descriptor
