"""Whether the disks hold what a conversion writes and fetches, asked before it begins. Knows nothing of the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mlx_diffusion.display import size_text
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.fit.disk import free_bytes, same_disk

STREAM = "; with --stream the source needs no more than two of its files at once"


def check_space(target: Path, needed: int, downloads: Mapping[Path, int], removed: Iterable[Path]) -> None:
    """Refuse what does not fit once the `removed` files are gone, disk by disk. Raises ConversionError.

    `needed` are the bytes of the output, `downloads` those of what is fetched, by the folder that it comes to lie in.
    """
    free = free_bytes(target) + sum(file.stat().st_blocks * 512 for file in removed)
    remedy = "free some, give a folder on another disk, or take a smaller recipe"
    for folder, nbytes in downloads.items():
        if same_disk(folder, target):
            needed += nbytes
        elif nbytes > free_bytes(folder):
            elsewhere = f"free some, or set HF_HOME to a folder on another disk{STREAM}"
            raise _refusal(folder, nbytes, free_bytes(folder), elsewhere)
        remedy += "" if target in folder.parents else STREAM
    if needed > free:
        raise _refusal(target, needed, free, remedy)


def _refusal(folder: Path, needed: int, free: int, remedy: str) -> ConversionError:
    return ConversionError(f"{folder}: {size_text(needed)} are needed and {size_text(free)} are free; {remedy}")
