"""Finds the folder of a checkpoint (a folder, a Hub id or the bundled demo) and checks that its files are whole.

Reads config.json, lists the safetensors files and checks their headers against their sizes before anything maps them.
Knows nothing of parameters, modules or tokenizers.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.description import described
from mlx_diffusion.checkpoint.downloads import hub_folder
from mlx_diffusion.checkpoint.headers import read_header
from mlx_diffusion.checkpoint.layouts import check_loadable
from mlx_diffusion.checkpoint.lazy_tensors import lazy_tensors
from mlx_diffusion.checkpoint.redundant import check_copies
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.checkpoint.weight_files import check_links, weight_files
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.json_files import read_json

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

CONFIG_FILE = "config.json"
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
        check_links(folder)
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
        config, sources = described(raw, config, stored, str(folder))
        return cls(folder, config, files, tuple(sources))

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, mx.array]:
        """The tensors of a name that is wanted, lazy: one is read when it is evaluated."""
        return lazy_tensors((one for one in self.sources if wanted(one.tensor.name)), self._stored())

    def check_copies(self) -> None:
        """Refuse tensors that only repeat others, if they do not; those alone are read. Raises CheckpointError."""
        repeated = [one for one in self.sources if one.checks]
        if repeated:
            check_copies(repeated, self._stored(), str(self.folder))

    def _stored(self) -> dict[str, mx.array]:
        """The arrays of the files, lazy."""
        tensors: dict[str, mx.array] = {}
        for file in self.files:
            try:
                loaded = mx.load(str(file), format="safetensors")
            except (RuntimeError, ValueError, OSError) as error:
                reason = str(error).split("\n")[0][:100]
                raise CheckpointError(f"{file} cannot be read by MLX ({reason}); download it again") from None
            assert isinstance(loaded, dict)
            tensors.update(loaded)
        return tensors


def find_folder(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: "demo", a folder, or a Hub id, which is downloaded (or found in the Hub's cache).

    `revision` is a branch, tag or commit of a Hub id.
    """
    folder = local_folder(path_or_id)
    if folder is not None:
        if revision is not None:
            raise CheckpointError(f"{path_or_id} is a folder and has no revision {revision!r}; leave one of both out")
        return folder
    return hub_folder(str(path_or_id), revision)


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
                f"{path_or_id} is a GGUF, which MLX does not compute with; convert it: "
                f"{shlex.join(['mlx-diffusion', 'convert', str(path_or_id), 'OUTPUT'])}"
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
