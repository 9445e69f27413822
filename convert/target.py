"""The output folder before the work: whose it is, whether this conversion may begin there or go on, and if it fits.

Knows nothing of the source but how much room its files take.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlx_diffusion.checkpoint.folder import INDEX_FILE, UNFINISHED, check_utf8, local_folder
from mlx_diffusion.convert.card import CARD, revision_in
from mlx_diffusion.convert.record import Record
from mlx_diffusion.convert.shards import Shard
from mlx_diffusion.convert.source import Source
from mlx_diffusion.display import size_text
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.fit.disk import free_bytes, same_disk
from mlx_diffusion.whole_files import PART, flush

CONFIG = "config.json"
STREAM = "; with --stream the source needs no more than two of its files at once"


# What a checkpoint has beside its weights; of an older one that is replaced nothing may be taken for the new one's.
OLD = (
    "*.safetensors", f"*{PART}", CONFIG, INDEX_FILE, "generation_config.json", "chat_template.*", "tokenizer*.*",
    "special_tokens_map.json", "added_tokens.json", "*processor_config.json",
)  # fmt: skip


def check_apart(source: str | Path, target: Path) -> None:
    """Refuse an output that is a file, or within its source, or around it."""
    if target.exists() and not target.is_dir():
        raise ConversionError(f"{target} is a file; give a new folder for the output")
    check_utf8(target)
    folder, output = local_folder(source), target.resolve()
    if folder is not None and (_within(output, folder.resolve()) or _within(folder.resolve(), output)):
        raise ConversionError(f"{target} and {source} lie within each other; give a folder apart for the output")


def _within(inner: Path, outer: Path) -> bool:
    """Whether a folder is another one or lies in it; names alone do not tell where upper and lower case are one."""
    return outer.exists() and any(folder.exists() and folder.samefile(outer) for folder in (inner, *inner.parents))


def earlier_record(target: Path, force: bool) -> Record | None:
    """What an interrupted conversion left; one that cannot be read is none to who forces."""
    try:
        return Record.read(target)
    except ConversionError:
        if force:
            return None
        raise


def earlier_revision(target: Path, source: str, force: bool) -> str | None:
    """The commit of this Hub id that the folder is being made from, or was: an unfinished one or a finished one."""
    earlier = earlier_record(target, force)
    if earlier is not None:
        return earlier.revision if earlier.source == source else None
    try:
        return None if force else revision_in((target / CARD).read_text(encoding="utf-8"), source)
    except (OSError, ValueError):
        return None


def is_finished(target: Path, rest: Iterable[tuple[str, bytes]]) -> bool:
    """Whether no conversion is at work and all files but the weights are there as they must be."""
    if (target / UNFINISHED).exists():
        return False
    return all((target / name).is_file() and (target / name).read_bytes() == content for name, content in rest)


def begin(
    target: Path, source: Source, files: Sequence[Shard], whole: set[str], rest: int, record: Record, force: bool
) -> set[str]:
    """Mark the folder as unfinished by this conversion; returns those of the `whole` weight files that may stay.

    `rest` is the size of all files but the weights. Raises ConversionError; then nothing has been lost.
    """
    earlier = earlier_record(target, force)
    difference = record.difference(earlier) if earlier is not None else None
    if earlier is not None and difference is None:
        missing = [file for file in files if file.name not in whole]
        unfinished = _matching(target, f"*{PART}")  # whoever wrote them is gone: the folder is locked
        _check_space(missing, rest, source, target, unfinished)
        _remove(unfinished)
        record.write(target)
        return whole
    if earlier is not None and not force:
        raise ConversionError(
            f"{target} holds another unfinished conversion: {difference}; give another folder, or add --force to start "
            f"anew, or go on with: {earlier.command}"
        )
    if _occupied(target) and not force:
        raise ConversionError(f"{target} is not empty; give another folder, or add --force to replace the checkpoint")
    old = _matching(target, *OLD)
    _check_space(files, rest, source, target, old)
    if old:
        # While old files are there, no record may vouch for them: one that no conversion equals marks the folder.
        replace(record, contents="to be replaced").write(target)
        _remove(old)
        flush(target)
    record.write(target)
    return set()


def _matching(target: Path, *patterns: str) -> list[Path]:
    return sorted({file for pattern in patterns for file in target.glob(pattern) if file.is_file()})


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _occupied(target: Path) -> bool:
    return any(not (file.name.startswith(".") or file.name == UNFINISHED + PART) for file in target.iterdir())


def _check_space(missing: Sequence[Shard], rest: int, source: Source, target: Path, old: Sequence[Path]) -> None:
    """Refuse what will not fit once the `old` files are gone: the output, and what is fetched, disk by disk."""
    needed = sum(file.nbytes for file in missing) + rest
    free = free_bytes(target) + sum(file.stat().st_blocks * 512 for file in old)
    remedy = "free some, give a folder on another disk, or take a smaller recipe"
    for folder, nbytes in source.room(list(dict.fromkeys(file.source for file in missing))).items():
        if same_disk(folder, target):
            needed += nbytes
        elif nbytes > free_bytes(folder):
            _refuse(
                folder, nbytes, free_bytes(folder), f"free some, or set HF_HOME to a folder on another disk{STREAM}"
            )
        remedy += "" if target in folder.parents else STREAM
    if needed > free:
        _refuse(target, needed, free, remedy)


def _refuse(folder: Path, needed: int, free: int, remedy: str) -> None:
    raise ConversionError(f"{folder}: {size_text(needed)} are needed and {size_text(free)} are free; {remedy}")


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
