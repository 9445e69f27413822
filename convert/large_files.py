"""Large files read and written once, kept out of the system's cache of files.

A checkpoint that passes would push all else out of that cache, and memory that is used again is ready sooner than new
memory. Knows nothing of what is in the files.
"""

from __future__ import annotations

import fcntl
import os
import sys


def flush(descriptor: int) -> None:
    """Wait until all that was written is on the disk, and let the system forget it."""
    os.fsync(descriptor)
    forget(descriptor)


def forget(descriptor: int, end: int = 0) -> None:
    """Let the system reuse the memory in which it keeps a file, up to `end` (0: all of it).

    Does something on Linux alone; macOS is told once for a file, by `uncached`.
    """
    if sys.platform == "linux":
        os.posix_fadvise(descriptor, 0, end, os.POSIX_FADV_DONTNEED)


def uncached(descriptor: int) -> int:
    """The same descriptor; on macOS its file stays out of the cache from here on."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
    return descriptor
