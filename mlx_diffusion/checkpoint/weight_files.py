"""The files that hold a checkpoint's weights, chosen among all that lie in its folder or repository by their names.

Copies in subfolders and in other formats are never among them. Knows nothing of what the files hold.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.json_files import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
NUMBERED = re.compile(r"(.*)-(\d{1,9})-of-(\d{1,9})\.safetensors")
NEEDED = (".safetensors", ".json", ".jinja", ".model", ".txt")  # endings of a checkpoint's files
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold a folder's weights, see `weight_names`."""
    check_links(folder)
    names = {file.name for file in folder.iterdir() if file.is_file()}
    repo_id = cached_repository(folder)
    if repo_id is not None and not any(name.endswith((".safetensors", ".gguf", *PICKLED)) for name in names):
        raise CheckpointError(
            f"{folder}: the download of {repo_id} broke off before its weights came; connect, and load {repo_id} again"
        )
    found = weight_names(names, lambda: read_json(folder / INDEX_FILE), str(folder))
    return tuple(folder / name for name in found)


def check_links(folder: Path) -> None:
    """Refuse links to files that are gone, of a damaged Hub cache or a copy of one. Raises CheckpointError."""
    links = [file for file in folder.iterdir() if file.is_symlink()] if folder.is_dir() else []
    gone = sorted(file.name for file in links if file.suffix in NEEDED and not file.exists())
    if not gone:
        return
    repo_id = cached_repository(folder)
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    remedy = (
        f"copy {'them' if more else 'it'} there themselves, as `cp -L` does"
        if repo_id is None
        else f"the Hub's cache is damaged: connect, and load {repo_id} again"
    )
    raise CheckpointError(f"{folder}: {gone[0]}{more} cannot be read, a link to a file that is gone; {remedy}")


def cached_repository(folder: Path) -> str | None:
    """The Hub id of a folder in the Hub's cache; None for any other."""
    owner, separator, name = folder.absolute().parent.parent.name.removeprefix("models--").partition("--")
    in_cache = folder.absolute().parent.name == "snapshots" and (folder.absolute().parent.parent / "blobs").is_dir()
    return f"{owner}/{name}" if in_cache and separator else None


def weight_names(names: Collection[str], read_index: Callable[[], Mapping[str, Any]], where: str) -> list[str]:
    """The weight files among `names`, all files of a checkpoint, by the rule that Transformers follows.

    The single file if there is one, else the shards of the index, else every safetensors file that is not hidden: a Mac
    leaves a `._` file beside each file that it copies to a stick. Nothing else is ever read: pickled files can run
    code.
    """
    if SINGLE_FILE in names:
        return [SINGLE_FILE]
    if INDEX_FILE in names:
        shards = read_index().get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{where}/{INDEX_FILE} has no weight_map")
        found = sorted({str(name) for name in shards.values()})
        check_plain(found, f"{where}/{INDEX_FILE}")
        _check_numbers(found, f"{where}/{INDEX_FILE} names")
        missing = [name for name in found if name not in names]
        if missing:
            raise CheckpointError(
                f"{where}: {len(missing)} of {count_of(len(found), 'weight file')} "
                f"{'is' if len(missing) == 1 else 'are'} missing, the first is {missing[0]}; "
                "without it the checkpoint is not whole, so download it again"
            )
        return found
    found = sorted(_loose(names))
    if not found:
        refuse_gguf(names, where)
        pickled = sorted(name for name in names if name.endswith(PICKLED) and name[0] != ".")
        reason = f"only {pickled[0]}, which can run code and is never read" if pickled else "so no weights"
        raise CheckpointError(f"{where} has no safetensors file, {reason}; get a checkpoint in safetensors")
    check_plain(found, where)
    _check_numbers(found, f"{where} has")
    return found


def refuse_gguf(names: Iterable[str], where: str) -> None:
    """Refuse a GGUF among these files, if there is one, with the command that converts it. Raises CheckpointError."""
    gguf = min((name for name in names if name.lower().endswith(".gguf") and name[0] != "."), default=None)
    if gguf is not None:
        path, when = (os.path.join(where, gguf), "") if os.path.isdir(where) else (gguf, ", once it is on this machine")
        raise CheckpointError(
            f"{where} holds {gguf}, and MLX does not compute with GGUF; convert the file{when}: "
            f"{shlex.join(['mlx-diffusion', 'convert', path, 'OUTPUT'])}"
        )


def _check_numbers(names: Iterable[str], who: str) -> None:
    """Refuse an incomplete set of numbered files, as in 1-of-3 and 3-of-3. Raises CheckpointError."""
    sets: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match:
            prefix, number, count = match.groups()
            sets.setdefault((prefix, count), {})[int(number)] = number
    for (prefix, count), numbers in sets.items():
        if len(numbers) < int(count):
            first = next(number for number in range(1, int(count) + 1) if number not in numbers)
            raise CheckpointError(
                f"{who} {count_of(len(numbers), 'weight file')} of {int(count)}, "
                f"{prefix}-{first:0{len(count)}d}-of-{count}"
                ".safetensors is not among them; download the checkpoint again"
            )


def check_plain(names: Iterable[str], where: str) -> None:
    """Refuse file names that could lead out of the folder that they belong in. Raises CheckpointError."""
    for name in names:
        if name.startswith(".") or any(character in name for character in "/\\\0") or not name:
            raise CheckpointError(f"{where}: the file name {name!r} leads out of its folder; do not trust this source")


def is_whole(folder: Path) -> bool:
    """True if all weight files of the checkpoint are there."""
    try:
        return bool(weight_files(folder))
    except (CheckpointError, OSError):
        return False


def main_weight_names(names: Collection[str]) -> list[str]:
    """The names that `weight_names` may choose from, as far as they tell without the index."""
    return [SINGLE_FILE] if SINGLE_FILE in names else _loose(names)


def _loose(names: Iterable[str]) -> list[str]:
    """Every safetensors file that is neither hidden nor in a subfolder, nor a second copy of all that others hold."""
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name and name[0] != "."]
    return [name for name in found if not name.startswith("consolidated")] or found
