"""Asks the Hub about a repository's files without fetching them. Knows nothing of what is in them."""

from __future__ import annotations

import huggingface_hub  # loads only the parts that are used

from mlx_diffusion.checkpoint.hub_errors import hub_errors
from mlx_diffusion.errors import CheckpointError

TIMEOUT = 10  # seconds without an answer


def hub_weight_bytes(repo_id: str) -> int | None:
    """The size of a repository's weight files; None where the Hub cannot be asked."""
    try:
        with hub_errors(repo_id):
            files = huggingface_hub.HfApi().model_info(repo_id, files_metadata=True, timeout=TIMEOUT).siblings or []
    except CheckpointError:
        return None  # opening the checkpoint will say what is wrong, or find it in the Hub's cache
    return sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))
