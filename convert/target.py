"""The output's folder: whose it is, whether this conversion may begin there or go on, and the mark that it leaves.

Knows nothing of the source or of the weights.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlx_diffusion.checkpoint.folder import CONFIG_FILE, INDEX_FILE, UNFINISHED, check_utf8
from mlx_diffusion.convert.card import CARD
from mlx_diffusion.convert.origin import ORIGIN, revision_of
from mlx_diffusion.convert.record import ConversionRecord
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.whole_files import PART, flush

# What a checkpoint has beside its weights; of an older one that is replaced nothing may be taken for the new one's.
OLD = (
    "*.safetensors", f"*{PART}", CONFIG_FILE, INDEX_FILE, ORIGIN, "generation_config.json", "chat_template.*",
    "tokenizer*.*", "special_tokens_map.json", "added_tokens.json", "*processor_config.json",
)  # fmt: skip


def check_apart(source: Path | None, target: Path) -> None:
    """Refuse an output that is a file, or within the folder of its source, or around it."""
    if target.exists() and not target.is_dir():
        raise ConversionError(f"{target} is a file; give a new folder for the output")
    check_utf8(target)
    if source is not None and (
        _within(target.resolve(), source.resolve()) or _within(source.resolve(), target.resolve())
    ):
        raise ConversionError(f"{target} and {source} lie within each other; give a folder apart for the output")


def _within(inner: Path, outer: Path) -> bool:
    """Whether a folder is another one or lies in it; names alone do not tell where upper and lower case are one."""
    return outer.exists() and any(folder.exists() and folder.samefile(outer) for folder in (inner, *inner.parents))


def earlier_revision(target: Path, source: str, force: bool) -> str | None:
    """The commit of this Hub id that the folder is being made from, or was: an unfinished one or a finished one."""
    earlier = _earlier_record(target, force)
    if earlier is not None:
        return earlier.revision if earlier.source == source else None
    return None if force else revision_of(target, source)


def _earlier_record(target: Path, force: bool) -> ConversionRecord | None:
    """What an interrupted conversion left; with `force`, one that cannot be read counts as none."""
    try:
        return ConversionRecord.read(target)
    except ConversionError:
        if force:
            return None
        raise


def is_finished(target: Path, side_files: Mapping[str, bytes]) -> bool:
    """Whether no conversion is at work and all files but the weights are there as they must be."""
    if (target / UNFINISHED).exists():
        return False
    wanted = {name: content for name, content in side_files.items() if name != ORIGIN or (target / name).exists()}
    return all((target / name).is_file() and (target / name).read_bytes() == wanted[name] for name in wanted)


def goes_on(target: Path, record: ConversionRecord, force: bool) -> bool:
    """Whether an interrupted run of this very conversion is to be gone on with, rather than a new one begun.

    Raises ConversionError where something else is in the way and `force` does not say to replace it.
    """
    earlier = _earlier_record(target, force)
    difference = record.difference(earlier) if earlier is not None else None
    if earlier is not None and difference is None:
        return True
    if earlier is not None and not force:
        raise ConversionError(
            f"{target} holds another unfinished conversion: {difference}; give another folder, or add --force to start "
            f"anew, or go on with: {earlier.command}"
        )
    if _occupied(target) and not force:
        unknown = record.revision is not None and (target / CARD).exists() and not (target / ORIGIN).exists()
        revision = " and does not say which commit it was made from; name that with --revision," if unknown else ";"
        raise ConversionError(
            f"{target} is not empty{revision} give another folder, or add --force to replace the checkpoint"
        )
    return False


def to_be_removed(target: Path, resumed: bool) -> list[Path]:
    """Files that a killed run was writing, or all that is left of another checkpoint."""
    return _matching(target, f"*{PART}") if resumed else _matching(target, *OLD)


def begin(target: Path, record: ConversionRecord, outdated: Sequence[Path], resumed: bool) -> None:
    """Mark the folder as unfinished by this conversion, and remove what is outdated."""
    if outdated and not resumed:
        # While old files are there, no record may vouch for them: one that no conversion equals marks the folder.
        replace(record, contents="to be replaced").write(target)
    for file in outdated:
        file.unlink(missing_ok=True)
    if outdated:
        flush(target)
    record.write(target)


def _matching(target: Path, *patterns: str) -> list[Path]:
    return sorted({file for pattern in patterns for file in target.glob(pattern) if file.is_file()})


def _occupied(target: Path) -> bool:
    return any(not (file.name.startswith(".") or file.name == UNFINISHED + PART) for file in target.iterdir())


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the folder against a second process; the lock goes with the process, however it ends."""
    descriptor = os.open(target, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConversionError(f"{target}: another conversion is writing here; wait for it, or end it") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def errors_of(target: Path) -> Iterator[None]:
    """Turn what the file system refuses into a ConversionError of one line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = "free some and run the same command: it goes on from the last finished file"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            remedy = "once that is mended, the same command goes on from the last finished file"
        raise ConversionError(f"{error.filename or target}: {reason}; {remedy}") from None
