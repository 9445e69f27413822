"""Uploads a finished conversion to the Hub. Knows nothing of how it was converted."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token

from mlx_diffusion.checkpoint.folder import HUB_ID, Checkpoint
from mlx_diffusion.checkpoint.hub_errors import hub_errors
from mlx_diffusion.convert.known_files import uploaded
from mlx_diffusion.errors import CheckpointError, ConversionError, OptionError


def check_upload(repo_id: str) -> None:
    """Refuse an upload that would fail after the work: a name that is no Hub id, or nobody logged in."""
    if not HUB_ID.fullmatch(repo_id):
        raise OptionError(f"{repo_id!r} is no Hub id to upload to, which reads owner/name")
    if get_token() is None:
        raise ConversionError(f"nobody is logged in to upload to {repo_id}; run `hf auth login` first")


def upload(folder: Path, repo_id: str) -> str:
    """Upload a finished conversion to a repository, which is created if necessary; returns its address."""
    found = Checkpoint.open(folder)  # raises unless it is whole and finished
    names = uploaded(folder, (file.name for file in found.files))
    linked = [name for name in names if (folder / name).resolve() != folder.resolve() / name]
    if linked:
        raise ConversionError(
            f"{folder / linked[0]} is a link, which no conversion writes; convert anew with force=True"
        )
    try:
        with hub_errors(repo_id, "run `hf auth login` if you have not, and try again", work="upload"):
            api = HfApi()
            url = api.create_repo(repo_id, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message="Converted with mlx-diffusion",
                allow_patterns=names,
            )
    except CheckpointError as error:
        raise ConversionError(f"{error} ({folder} is whole)") from None
    return str(url)
