"""What the Hub says of a repository's files, asked without fetching any. Knows nothing of what is in them."""

from __future__ import annotations

import huggingface_hub  # imports of its own only what is asked of it

from mlx_diffusion.checkpoint.hub_errors import hub_errors
from mlx_diffusion.errors import CheckpointError

TIMEOUT = 10  # seconds without an answer


def hub_weight_bytes(repo_id: str) -> int | None:
    """The size of a repository's weight files; None where the Hub cannot be asked."""
    try:
        with hub_errors(repo_id):
            files = huggingface_hub.HfApi().model_info(repo_id, files_metadata=True, timeout=TIMEOUT).siblings or []
    except CheckpointError:
        return None  # who opens the checkpoint says what is wrong, or finds it in the Hub's cache
    return sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))
