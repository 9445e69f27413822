"""Where a checkpoint lies and whether its files are whole: folder, Hub id or the bundled demo.

Finds the folder, reads config.json, lists the safetensors files and checks their headers against their sizes before
anything maps them. Knows nothing of parameters, modules or tokenizers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from huggingface_hub import errors as hub
from huggingface_hub import snapshot_download

from .config import ModelConfig
from .errors import CheckpointError
from .fields import read_json

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo"
DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# The base error of the HTTP client under huggingface_hub, which changed with its releases: requests, httpx, httpx2.
HTTP_ERROR: type[Exception] = hub.HTTPError  # type: ignore[attr-defined]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose config is read and whose weight files are there and whole."""

    folder: Path
    config: ModelConfig
    files: tuple[Path, ...]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        config_file = folder / "config.json"
        if not config_file.is_file():
            raise CheckpointError(f"{folder} has no config.json, so it is no checkpoint; give the folder that has one")
        config = ModelConfig.from_dict(read_json(config_file), where=str(config_file))
        files = _weight_files(folder)
        for file in files:
            _check_safetensors(file)
        return cls(folder, config, files)

    def tensors(self) -> dict[str, mx.array]:
        """All tensors by name, lazy: a tensor is read when it is evaluated."""
        tensors: dict[str, mx.array] = {}
        for file in self.files:
            loaded = mx.load(str(file), format="safetensors")
            assert isinstance(loaded, dict)
            twice = sorted(tensors.keys() & loaded.keys())
            if twice:
                raise CheckpointError(f"{file} holds {twice[0]} a second time; remove the shard that is not its own")
            tensors.update(loaded)
        return tensors


def find(path_or_id: str | Path) -> Path:
    """The folder of a checkpoint: "demo", a folder, or a Hub id, which is downloaded (or found in the Hub's cache)."""
    if path_or_id == DEMO:
        return DEMO_FOLDER
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{path_or_id} is a file; give the folder that holds config.json and the weights")
    if isinstance(path_or_id, Path) or not HUB_ID.fullmatch(path_or_id):
        raise CheckpointError(f"{path_or_id}: no such folder (nor a Hub id, which reads owner/name)")
    return _download(path_or_id)


def _download(repo_id: str) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=DOWNLOADED))
    except hub.GatedRepoError:
        raise CheckpointError(
            f"{repo_id}: the Hub asks you to accept its licence first; do so on https://huggingface.co/{repo_id} "
            "and run `hf auth login`"
        ) from None
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        raise CheckpointError(
            f"{repo_id}: no such folder, and no such model on the Hub (for a private one run `hf auth login`)"
        ) from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        raise CheckpointError(
            f"{repo_id}: not in the Hub's cache, and the Hub cannot be reached (offline mode, no network, or it is "
            "down); connect once to download it, or give a folder"
        ) from None
    except (HTTP_ERROR, OSError) as error:
        raise CheckpointError(f"{repo_id}: the download failed ({_first_line(error)}); try again") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The single file if there is one, else the index's shards, else every safetensors file: Transformers' order."""
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE,)
    if (folder / INDEX_FILE).is_file():
        shards = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{folder / INDEX_FILE} has no weight_map")
        names = sorted({str(name) for name in shards.values()})
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder}: {len(missing)} of {len(names)} weight files are missing, the first is {missing[0]}; "
                "download it again"
            )
        return tuple(folder / name for name in names)
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        raise CheckpointError(f"{folder} has no safetensors file, so no weights; download it again")
    return files


def _check_safetensors(file: Path) -> None:
    """Compare the header with the file's size: MLX would read past the end of a truncated file without a word."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{file} is truncated or no safetensors file ({size} bytes); download it again")
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise CheckpointError(f"{file} has no readable safetensors header; download it again") from None
    needed = 8 + length + max(ends, default=0)
    if size < needed:
        raise CheckpointError(f"{file} is truncated: {size} bytes of {needed}; download it again")
