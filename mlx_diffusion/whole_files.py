"""Files that appear whole or not at all, also if the power fails: written beside their place, flushed, then renamed.

Shares and mounted disks may lack locks and flushes of folders: what asks for them here goes on without. Knows nothing
of what the files hold.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_diffusion.errors import DiffusionError

PART = ".part"  # at the end of the name of a file that is being written
UNKNOWN_TO_SYSTEM = (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
PUBLIC, PRIVATE = 0o666, 0o600  # permissions: what the user's umask leaves, and the user's alone


def write_whole(
    file: Path, content: bytes, *, error: type[DiffusionError] | None = None, private: bool = False
) -> None:
    """Write a file so that at any moment either the old or the new content is there.

    With `private` nobody but the user may read it. Where the file cannot be written, raises OSError, or the caller's
    own kind of `error` with a line that says so.
    """
    try:
        with whole_file(file, private=private) as part:
            part.write_bytes(content)
    except OSError as problem:
        if error is None:
            raise
        raise error(f"{file} cannot be written ({problem.strerror or problem}); choose another place") from None


@contextmanager
def whole_file(file: Path, *, private: bool = False, suffix: str = PART) -> Iterator[Path]:
    """Give an empty file to write, which takes the place of `file` at the end of the `with` block.

    If the block raises, `file` stays as it was and what was written is removed. `suffix` ends the name of the file that
    is given, for writers that look at it. Raises OSError.
    """
    file = file.resolve()  # a link stays one
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise OSError(errno.EEXIST, "it is no regular file")  # a device, say, in whose place a file would come
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}{suffix}")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE if private else PUBLIC))
    try:
        yield part
        flush(part)
        os.replace(part, file)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what counts
            part.unlink()
        raise
    flush(file.parent)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk, where the file system can say so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():  # some file systems open no folders
            return
        raise
    try:
        flush_open(descriptor)
    finally:
        os.close(descriptor)


def flush_open(descriptor: int) -> None:
    """Wait until what an open file or folder holds is on the disk, where the file system can say so."""
    with _optional():
        os.fsync(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes until it is closed; False where that cannot be done.

    Raises BlockingIOError if another process has it.
    """
    locked = False
    with _optional():
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    return locked


@contextmanager
def _optional() -> Iterator[None]:
    """Go on where the file system does not know what it is asked for; a full or broken disk raises as ever."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNKNOWN_TO_SYSTEM:
            raise
