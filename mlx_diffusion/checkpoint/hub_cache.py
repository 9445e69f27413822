"""Lists the checkpoints of DiffusionGemma in the Hub's cache on this machine, and says which of them are whole.

Reads nothing but directories, config files and indices. Knows nothing of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants  # the package does not import it by itself

from mlx_diffusion.checkpoint.formats import claimed_encoding, read_quantization, spec_text
from mlx_diffusion.checkpoint.weight_files import is_whole
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.json_files import read_json


@dataclass(frozen=True)
class CachedCheckpoint:
    """One revision of a repository in the cache."""

    repo_id: str
    revision: str
    nbytes: int
    kept_as: str  # the format of most of its weights
    whole: bool


def cache_folder() -> Path:
    """The folder in which huggingface_hub keeps its downloads."""
    return Path(constants.HF_HUB_CACHE)


def cached_checkpoints() -> list[CachedCheckpoint]:
    """All checkpoints in the cache, by name; none where the cache is missing or cannot be read."""
    found = [_checkpoint(repository.repo_id, revision) for repository in _models() for revision in repository.revisions]
    return sorted(filter(None, found), key=lambda cached: (cached.repo_id, cached.revision))


def cached_snapshots(repo_id: str) -> list[Path]:
    """The folders of all revisions of a repository, the latest download last."""
    revisions = [revision for model in _models() if model.repo_id == repo_id for revision in model.revisions]
    return [revision.snapshot_path for revision in sorted(revisions, key=lambda revision: revision.last_modified)]


def is_cached(repo_id: str, name: str, revision: str | None, digest: str | None) -> bool:
    """True for a file that is in the cache, at this revision or with the same content at another one."""
    if isinstance(huggingface_hub.try_to_load_from_cache(repo_id, name, revision=revision), str):
        return True
    from huggingface_hub.file_download import repo_folder_name

    blobs = cache_folder() / repo_folder_name(repo_id=repo_id, repo_type="model") / "blobs"
    return digest is not None and (blobs / digest).is_file()


def _models() -> list[huggingface_hub.CachedRepoInfo]:
    try:
        return [repository for repository in huggingface_hub.scan_cache_dir().repos if repository.repo_type == "model"]
    except (huggingface_hub.CacheNotFound, OSError, ValueError):
        return []


def _checkpoint(repo_id: str, revision: huggingface_hub.CachedRevisionInfo) -> CachedCheckpoint | None:
    """The checkpoint at this revision; None if it is not one of DiffusionGemma."""
    folder = revision.snapshot_path
    try:
        raw = read_json(folder / "config.json")
        if raw.get("model_type") != "diffusion_gemma":
            return None
        quantization = read_quantization(raw)
    except CheckpointError:
        return None
    kept_as = claimed_encoding(raw) or spec_text(quantization.default if quantization else None)
    return CachedCheckpoint(repo_id, revision.commit_hash, revision.size_on_disk, kept_as, is_whole(folder))
