"""From a path, a Hub id or "demo" to a model and its tokenizer, ready to generate.

Knows nothing of prompts or of how weights are renamed; it only puts the parts together.
"""

from __future__ import annotations

from pathlib import Path

from mlx_diffusion.checkpoint import folder as checkpoint
from mlx_diffusion.checkpoint import weights
from mlx_diffusion.checkpoint.beside import generation_defaults
from mlx_diffusion.checkpoint.speed import HeldLevers
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer


def load(path_or_id: str | Path, *, revision: str | None = None) -> tuple[DiffusionGemma, Tokenizer]:
    """Load "demo" (the bundled checkpoint), a folder, or a Hub id such as "mlx-community/…".

    Hub-format folders and folders written by mlx-vlm are read alike, quantised or not; so are NVFP4 builds and experts
    one by one. What must be converted first is refused before its weights are fetched. A Hub id is downloaded through
    huggingface_hub, which honours HF_HOME and HF_HUB_OFFLINE; `revision` is a branch, tag or commit of it. The model
    carries the checkpoint's generation defaults as `model.generation_defaults`. Raises CheckpointError, one line that
    says what, where and what to do.
    """
    found = checkpoint.Checkpoint.open(checkpoint.find_folder(path_or_id, revision))
    tokenizer = load_tokenizer(found.folder)
    return load_model(found), tokenizer


def load_model(found: checkpoint.Checkpoint) -> DiffusionGemma:
    """The model alone, its weights in memory once."""
    defaults = generation_defaults(found.folder, found.config).with_levers(HeldLevers(found.folder))
    found.check_copies()
    model = DiffusionGemma(found.config, defaults)
    weights.fill(model, found.tensors(), found.config.quantization, where=str(found.folder))
    model.eval()
    return model
