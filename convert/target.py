"""The output's folder: checks that a conversion may begin or continue there, locks it, marks it as unfinished.

Knows nothing of the source or of the weights.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from mlx_diffusion.checkpoint.folder import UNFINISHED, check_utf8, plain_conversion
from mlx_diffusion.convert.known_files import CARD, files_in, is_leftover, is_replaced, is_shard
from mlx_diffusion.convert.origin import ORIGIN, Origin, revision_of
from mlx_diffusion.convert.record import ConversionRecord
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.template_files import ADDITIONAL
from mlx_diffusion.whole_files import flush, lock


def check_apart(source: Path | None, target: Path) -> None:
    """Refuse an output that is a file, lies within the source's folder, or contains it."""
    if target.exists() and not target.is_dir():
        raise ConversionError(f"{target} is a file; give a new folder for the output")
    check_utf8(target)
    if source is not None and (
        _within(target.resolve(), source.resolve()) or _within(source.resolve(), target.resolve())
    ):
        raise ConversionError(f"{target} and {source} lie within each other; give a folder apart for the output")


def _within(inner: Path, outer: Path) -> bool:
    """True if a folder is another one or lies in it; names cannot tell on file systems that ignore case."""
    return outer.exists() and any(folder.exists() and folder.samefile(outer) for folder in (inner, *inner.parents))


def earlier_revision(target: Path, source: str, force: bool) -> str | None:
    """The commit of this Hub id from which the folder, finished or not, was made; None if it does not say."""
    earlier = _earlier_record(target, force)
    if earlier is not None:
        return earlier.revision if earlier.source == source else None
    return None if force else revision_of(target, source)


def _earlier_record(target: Path, force: bool) -> ConversionRecord | None:
    """The record of an interrupted conversion; with `force`, an unreadable one counts as none."""
    try:
        return ConversionRecord.read(target)
    except ConversionError:
        if force:
            return None
        raise


def is_finished(target: Path, side_files: Mapping[str, bytes], origin: Origin) -> bool:
    """True if no conversion is at work and every file beside the weights has the content that it must have."""
    if (target / UNFINISHED).exists() or ((target / ORIGIN).exists() and not origin.is_that_of(target)):
        return False
    return all(_holds(target / name, content) for name, content in side_files.items())


def _holds(file: Path, content: bytes) -> bool:
    return file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content


def to_continue(target: Path, record: ConversionRecord, force: bool) -> ConversionRecord | None:
    """The record of an interrupted run of this very conversion, which can go on; None if a new one can begin.

    Raises ConversionError if the folder holds something else and `force` does not say to replace it.
    """
    earlier = _earlier_record(target, force)
    difference = record.difference(earlier) if earlier is not None else None
    if earlier is not None and difference is None:
        return earlier
    if earlier is not None and not force:
        raise ConversionError(
            f"{target} holds another unfinished conversion: {difference}; give another folder, or force=True to start "
            f"anew{_way_on(record, earlier)}"
        )
    if _occupied(target) and not force:
        unknown = record.revision is not None and (target / CARD).exists() and not (target / ORIGIN).exists()
        revision = " and does not say which commit it was made from; name that with revision=...," if unknown else ";"
        raise ConversionError(
            f"{target} is not empty{revision} give another folder, or force=True to replace the checkpoint"
        )
    return None


def _way_on(record: ConversionRecord, earlier: ConversionRecord) -> str:
    """What to run for the earlier conversion, where that would go on; nothing where it would fail as this one does."""
    another = (record.source, record.revision) != (earlier.source, earlier.revision)
    if (record.mlx, record.mlx_diffusion) != (earlier.mlx, earlier.mlx_diffusion):
        return ""  # no command of these versions can
    if not another and record.contents != earlier.contents:
        return ""  # the source is not what it was
    command = plain_conversion(earlier.command)
    return f", or go on with: {command}" if command == earlier.command != record.command else ""


def outdated_files(target: Path, resumed: bool, kept: Collection[str]) -> list[Path]:
    """The files to remove first: in a resumed run those that are not `kept`, else those of an older checkpoint."""

    def outdated(name: str) -> bool:
        if resumed:
            return is_leftover(name) or (is_shard(name) and name not in kept) or name == ADDITIONAL
        return is_replaced(name)

    linked = (target / ADDITIONAL).is_symlink()  # to a folder elsewhere, from which nothing is removed
    return sorted(target / name for name in files_in(target) if outdated(name) and not (linked and "/" in name))


def begin(target: Path, record: ConversionRecord, outdated: Sequence[Path], resumed: bool) -> None:
    """Mark the folder as unfinished by this conversion, and remove what is outdated."""
    if outdated and not resumed:
        # Until the old files are gone, the mark must equal no conversion's, or one could take them for its own.
        replace(record, contents="to be replaced").write(target)
    for file in outdated:
        file.unlink(missing_ok=True)
    with suppress(OSError):  # it is not there, or holds something else
        (target / ADDITIONAL).rmdir()
    if outdated:
        flush(target)
    record.write(target)


def _occupied(target: Path) -> bool:
    return any(not file.name.startswith(".") for file in target.iterdir())


@contextmanager
def locked(target: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Lock the folder against a second process; the lock ends with the process, however that ends.

    Where the file system has no locks, `warn` is told so and the work goes on.
    """
    descriptor = os.open(target, os.O_RDONLY)
    try:
        try:
            if not lock(descriptor):
                warn(f"{target} cannot be locked on its disk; let no second conversion write there meanwhile")
        except BlockingIOError:
            raise ConversionError(f"{target}: another conversion is writing here; wait for it, or end it") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def errors_of(target: Path) -> Iterator[None]:
    """Turn errors of the file system into a ConversionError of one line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = "free some; the same call goes on from the last finished file"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            remedy = "once that is mended, the same call goes on from the last finished file"
        raise ConversionError(f"{error.filename or target}: {reason}; {remedy}") from None
