"""Finds the folder of a checkpoint (a folder, a Hub id or the bundled demo) and checks that its files are whole.

Reads config.json, lists the safetensors files and checks their headers against their sizes before anything maps them.
Knows nothing of parameters, modules or tokenizers.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub  # loads only the parts that are used
import mlx.core as mx

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import FIXED_MODES, NVFP4, Quantization, QuantSpec
from mlx_diffusion.checkpoint.headers import read_header
from mlx_diffusion.checkpoint.hub_errors import hub_errors
from mlx_diffusion.checkpoint.layouts import check_claim, check_loadable, encodings, translated
from mlx_diffusion.checkpoint.lazy_tensors import lazy_tensors
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.checkpoint.text_tensors import check_size
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.json_files import read_json

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo"
DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
NUMBERED = re.compile(r"(.*)-(\d{1,9})-of-(\d{1,9})\.safetensors")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
UNFINISHED = "conversion.json"  # in a folder that a conversion is still writing


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose config is read and whose weight files are there and whole."""

    folder: Path
    config: ModelConfig
    files: tuple[Path, ...]
    sources: tuple[SourceTensor, ...]  # the tensors in them

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """A checkpoint that MLX can compute with as it is; the error for another has the command that converts it."""
        found = cls.open_source(folder)
        check_loadable(found.sources, str(folder))
        return found

    @classmethod
    def open_source(cls, folder: Path) -> Checkpoint:
        """A checkpoint in any layout that is read at all."""
        check_finished(folder)
        check_utf8(folder)
        config_file = folder / CONFIG_FILE
        if not config_file.is_file() and any(file.suffix.lower() == ".gguf" for file in folder.glob("*")):
            weight_files(folder)  # says what a GGUF is
        if not config_file.is_file():
            raise CheckpointError(f"{folder} has no config.json, so it is no checkpoint; give the folder that has one")
        raw = read_json(config_file)
        config = ModelConfig.from_dict(raw, where=str(config_file))
        files = weight_files(folder)
        # MLX would read past the end of a truncated file without a word, so all headers are read.
        stored = [entry for file in files for entry in read_header(file)]
        check_size(config, stored, str(folder))
        sources = translated(stored, str(folder))
        check_claim(raw, sources, str(config_file))
        if config.quantization is None and NVFP4 in encodings(sources):
            config = replace(config, quantization=Quantization(QuantSpec(*FIXED_MODES["nvfp4"], "nvfp4")))
        return cls(folder, config, files, tuple(sources))

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, mx.array]:
        """The tensors of a name that is wanted, lazy: one is read when it is evaluated."""
        tensors: dict[str, mx.array] = {}
        for file in self.files:
            try:
                loaded = mx.load(str(file), format="safetensors")
            except (RuntimeError, ValueError, OSError) as error:
                reason = str(error).split("\n")[0][:100]
                raise CheckpointError(f"{file} cannot be read by MLX ({reason}); download it again") from None
            assert isinstance(loaded, dict)
            tensors.update(loaded)
        return lazy_tensors((one for one in self.sources if wanted(one.tensor.name)), tensors)


def find_folder(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: "demo", a folder, or a Hub id, which is downloaded (or found in the Hub's cache).

    `revision` is a branch, tag or commit of a Hub id.
    """
    folder = local_folder(path_or_id)
    if folder is not None:
        if revision is not None:
            raise CheckpointError(f"{path_or_id} is a folder and has no revision {revision!r}; leave one of both out")
        return folder
    with hub_errors(str(path_or_id), revision=revision):
        return Path(huggingface_hub.snapshot_download(str(path_or_id), revision=revision, allow_patterns=DOWNLOADED))


def local_folder(path_or_id: str | Path) -> Path | None:
    """The folder that "demo" or a path stands for; None for a Hub id. Raises CheckpointError for anything else."""
    if path_or_id == DEMO:
        return DEMO_FOLDER
    if path_or_id == "":
        raise CheckpointError("the checkpoint's name is empty; give a folder, a Hub id or demo")
    try:
        folder = Path(os.path.expanduser(path_or_id))
        found = folder.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except (OSError, ValueError) as error:  # a name too long for the system, or with a null character
        reason = error.strerror if isinstance(error, OSError) else "no file can have that name"
        raise CheckpointError(f"{path_or_id} cannot be opened ({reason}); give a folder, a Hub id or demo") from None
    if found is not None and stat.S_ISDIR(found):
        if not os.access(folder, os.R_OK | os.X_OK):
            raise CheckpointError(f"{path_or_id} may not be read by this user; change the folder's permissions")
        return folder
    if found is not None:
        if folder.suffix.lower() == ".gguf":
            raise CheckpointError(
                f"{path_or_id} is a GGUF, llama.cpp's format, not read here; take the checkpoint in safetensors"
            )
        raise CheckpointError(f"{path_or_id} is a file; give the folder that holds config.json and the weights")
    if isinstance(path_or_id, Path) or not HUB_ID.fullmatch(path_or_id):
        raise CheckpointError(f"{path_or_id}: no such folder (nor a Hub id, which reads owner/name)")
    return None


def check_finished(folder: Path) -> None:
    """Refuse the output of an interrupted conversion; the error has the command that continues it."""
    record = folder / UNFINISHED
    if record.exists():
        command = plain_conversion(read_json(record).get("command"))
        raise CheckpointError(f"{folder} is an unfinished conversion; to go on, run: {command}")


def plain_conversion(command: object) -> str:
    """The command of a record, if it is a conversion and nothing else in a shell: the record may be another's."""
    try:
        words = shlex.split(command) if isinstance(command, str) and command.isprintable() else []
    except ValueError:
        words = []
    if words[:2] == ["mlx-diffusion", "convert"] and shlex.join(words) == command:
        return command
    return "the same `mlx-diffusion convert` again"


def check_utf8(folder: Path) -> None:
    """Refuse a path that is not UTF-8, which MLX cannot read. Raises CheckpointError."""
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{folder}: MLX reads no path that is not UTF-8; rename the folder") from None


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold a folder's weights, see `weight_names`."""
    names = {file.name for file in folder.iterdir() if file.is_file()}
    found = weight_names(names, lambda: read_json(folder / INDEX_FILE), str(folder))
    return tuple(folder / name for name in found)


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
                f"{where}: {len(missing)} of {len(found)} weight files are missing, the first is {missing[0]}; "
                "without it the checkpoint is not whole"
            )
        return found
    found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name and name[0] != ".")
    if not found:
        gguf = sorted(name for name in names if name.lower().endswith(".gguf") and name[0] != ".")
        if gguf:
            raise CheckpointError(
                f"{where} holds {gguf[0]}: GGUF is llama.cpp's format and is not read here; take the checkpoint in "
                "safetensors, as published or as converted for MLX"
            )
        pickled = sorted(name for name in names if name.endswith(PICKLED) and name[0] != ".")
        reason = f"only {pickled[0]}, which can run code and is never read" if pickled else "so no weights"
        raise CheckpointError(f"{where} has no safetensors file, {reason}; get a checkpoint in safetensors")
    check_plain(found, where)
    _check_numbers(found, f"{where} has")
    return found


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
                f"{who} {len(numbers)} weight files of {int(count)}, {prefix}-{first:0{len(count)}d}-of-{count}"
                ".safetensors is not among them; download the checkpoint again"
            )


def check_plain(names: Iterable[str], where: str) -> None:
    """Refuse file names that could lead out of the folder that they belong in. Raises CheckpointError."""
    for name in names:
        if name.startswith(".") or any(character in name for character in "/\\\0") or not name:
            raise CheckpointError(f"{where}: the file name {name!r} leads out of its folder; do not trust this source")
