"""Downloads a checkpoint from the Hub: its small files first, and its weights if these and their headers allow it.

Nothing else of a repository is fetched: no copies in subfolders or in other formats. Knows nothing of conversions.
"""

from __future__ import annotations

from pathlib import Path

import huggingface_hub  # loads only the parts that are used

from mlx_diffusion.checkpoint.beside import check_beside
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.description import described
from mlx_diffusion.checkpoint.hub_errors import hub_errors
from mlx_diffusion.checkpoint.hub_files import hub_headers, hub_sizes
from mlx_diffusion.checkpoint.layouts import check_loadable
from mlx_diffusion.checkpoint.weight_files import INDEX_FILE, check_links, is_whole, refuse_gguf, weight_names
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.json_files import read_json
from mlx_diffusion.template_files import ADDITIONAL

SMALL = [
    "config.json", INDEX_FILE, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
    "chat_template.json", "processor_config.json", "preprocessor_config.json", f"{ADDITIONAL}/*.jinja",
]  # fmt: skip


def hub_folder(repo_id: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint in the Hub's cache, with all that loading it takes. Raises CheckpointError.

    Offline, it is found there if all of that is there, whatever else the repository has.
    """
    with hub_errors(repo_id, revision=revision):
        folder = _small_files(repo_id, revision)
    if not (folder / "config.json").is_file():
        check_links(folder)
        with hub_errors(repo_id, revision=revision):
            refuse_gguf(hub_sizes(repo_id, folder.name) or (), repo_id)
        raise CheckpointError(f"{repo_id} has no config.json, so it is no checkpoint of DiffusionGemma")
    raw = read_json(folder / "config.json")
    config = ModelConfig.from_dict(raw, where=f"{repo_id}/config.json")
    if is_whole(folder):
        return folder
    with hub_errors(repo_id, revision=revision):
        sizes = hub_sizes(repo_id, folder.name)
        if sizes is None:
            raise huggingface_hub.errors.LocalEntryNotFoundError(repo_id)
    weights = weight_names(sizes, lambda: read_json(folder / INDEX_FILE), repo_id)
    stored = hub_headers(repo_id, folder.name, {name: sizes[name] for name in weights})
    _, sources = described(raw, config, stored, repo_id)
    check_loadable(sources, repo_id)
    check_beside(folder, config)
    with hub_errors(repo_id, revision=revision):
        return _snapshot(repo_id, revision, [*SMALL, *weights])


def _small_files(repo_id: str, revision: str | None) -> Path:
    """The folder with the small files that the repository has; offline, those that are there, with config.json."""
    try:
        return _snapshot(repo_id, revision, SMALL)
    except huggingface_hub.errors.LocalEntryNotFoundError:
        return Path(
            huggingface_hub.snapshot_download(
                repo_id, revision=revision, allow_patterns=SMALL[:1], local_files_only=True
            )
        )


def _snapshot(repo_id: str, revision: str | None, names: list[str]) -> Path:
    return Path(huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=names))
