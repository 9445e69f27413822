"""The output folder before the work: whose it is, whether this conversion may begin there or go on, and if it fits.

Knows nothing of the source but how large its files are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlx_diffusion.checkpoint import INDEX_FILE, UNFINISHED
from mlx_diffusion.errors import ConversionError

from . import shards
from .files import PART, flush_folder, free_bytes
from .record import Record
from .shards import Shard
from .words import size_text

CONFIG = "config.json"


def check_apart(source: str | Path, target: Path) -> None:
    """Refuse an output that is a file, or within its source, or around it."""
    if target.exists() and not target.is_dir():
        raise ConversionError(f"{target} is a file; give a new folder for the output")
    folder, output = Path(source).expanduser().resolve(), target.resolve()
    if folder.is_dir() and (folder == output or folder in output.parents or output in folder.parents):
        raise ConversionError(f"{target} and {source} lie within each other; give a folder apart for the output")


def earlier_record(target: Path, force: bool) -> Record | None:
    """What an interrupted conversion left; one that cannot be read is none to who forces."""
    try:
        return Record.read(target)
    except ConversionError:
        if force:
            return None
        raise


def begin(target: Path, files: Sequence[Shard], record: Record, force: bool, streamed: bool) -> set[str]:
    """Mark the folder as unfinished by this conversion; returns the weight files that are there already.

    `streamed`: two files of the source lie on the same disk. Raises ConversionError; then nothing has been lost.
    """
    earlier = earlier_record(target, force)
    difference = record.difference(earlier) if earlier is not None else None
    if earlier is not None and difference is None:
        whole = {file.name for file in files if shards.is_whole(file, target)}
        _check_space(files, target, whole, _matching(target, f"*{PART}"), streamed)
        record.write(target)
        return whole
    if earlier is not None and not force:
        raise ConversionError(
            f"{target} holds another unfinished conversion: {difference}; give another folder, or add --force to start "
            f"anew, or go on with: {earlier.command}"
        )
    if _occupied(target) and not force:
        raise ConversionError(f"{target} is not empty; give another folder, or add --force to replace the checkpoint")
    old = _matching(target, "*.safetensors", f"*{PART}", CONFIG, INDEX_FILE)
    _check_space(files, target, set(), old, streamed)
    if old:
        # While old files are there, no record may vouch for them: one that no conversion equals marks the folder.
        replace(record, contents="to be replaced").write(target)
        for file in old:
            file.unlink(missing_ok=True)
        flush_folder(target)
    record.write(target)
    return set()


def _matching(target: Path, *patterns: str) -> list[Path]:
    return sorted({file for pattern in patterns for file in target.glob(pattern) if file.is_file()})


def _occupied(target: Path) -> bool:
    return any(not (file.name.startswith(".") or file.name == UNFINISHED + PART) for file in target.iterdir())


def _check_space(files: Sequence[Shard], target: Path, whole: set[str], old: Sequence[Path], streamed: bool) -> None:
    missing = [file for file in files if file.name not in whole]
    needed = sum(file.nbytes for file in missing)
    if streamed:
        fetched: dict[str, int] = {}
        for file in missing:
            fetched[file.source] = fetched.get(file.source, 0) + file.source_bytes
        needed += sum(sorted(fetched.values())[-2:])
    free = free_bytes(target) + sum(file.stat().st_blocks * 512 for file in old)
    if free < needed:
        raise ConversionError(
            f"{target}: {size_text(needed)} are needed and {size_text(free)} are free; free some, give a folder on "
            "another disk, or take a smaller recipe"
        )
