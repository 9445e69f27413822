"""Checks that a conversion's output and downloads fit on their disks. Knows nothing of what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mlx_diffusion.display import size_text
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.fit.disk import free_bytes, same_disk

STREAM = "; with stream=True the source needs no more than two of its files at once"


def check_space(
    target: Path,
    needed: int,
    downloads: Mapping[Path, int],
    removed: Iterable[Path],
    warn: Callable[[str], None] = lambda line: None,
) -> None:
    """Raise ConversionError if a disk is too small, counting the `removed` files as free.

    A disk with 0 bytes free may be a mount that does not say: `warn` is told, and the work goes on; on a full disk it
    stops with the first write, and the same command goes on from there.

    `needed` are the bytes of the output; `downloads` has the bytes that are fetched, by the folder where they are put.
    """
    free = free_bytes(target) + sum(file.lstat().st_blocks * 512 for file in removed)
    remedy = "free some, give a folder on another disk, or take a smaller recipe"
    for folder, nbytes in downloads.items():
        if same_disk(folder, target):
            needed += nbytes
        elif not free_bytes(folder):
            warn(_unknown(folder, nbytes))
        elif nbytes > free_bytes(folder):
            elsewhere = f"free some, or set HF_HOME to a folder on another disk{STREAM}"
            raise _refusal(folder, nbytes, free_bytes(folder), elsewhere)
        remedy += "" if target in folder.parents else STREAM
    if needed and not free_bytes(target):
        warn(_unknown(target, needed))
    elif needed > free:
        raise _refusal(target, needed, free, remedy)


def _refusal(folder: Path, needed: int, free: int, remedy: str) -> ConversionError:
    return ConversionError(f"{folder}: {size_text(needed)} are needed and {size_text(free)} are free; {remedy}")


def _unknown(folder: Path, needed: int) -> str:
    return f"{folder}: its disk reports 0 bytes free; {size_text(needed)} are needed, see that they are there"
