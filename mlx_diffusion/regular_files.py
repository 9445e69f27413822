"""Opens files from outside, regular ones alone, and reads whole ones of a bounded size.

A device or a pipe may give bytes for ever, and a file of gigabytes fills the memory before anybody looks at it. Knows
nothing of what the files hold.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def read_regular(file: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError, whose `strerror` says what is wrong."""
    with open_regular(file) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content


@contextmanager
def open_regular(file: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Raises OSError, whose `strerror` says what is wrong."""
    try:
        # Without O_NONBLOCK, to open a pipe would wait for who writes into it.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a null character, which the system could not be given
        raise OSError(errno.EINVAL, "its name is none that a file can have") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with open(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)
