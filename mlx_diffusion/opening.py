"""Opens a model: finds or downloads it, and refuses it before it is loaded if it does not fit this machine.

Every command opens its model here. Knows nothing of what is run with it or of how a warning is shown.
"""

from __future__ import annotations

from mlx_diffusion.fit.opening import find_model, verdict_on
from mlx_diffusion.fit.verdict import Warn
from mlx_diffusion.loading import load
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.tokenizer import Tokenizer


def open_model(name: str, warn: Warn, revision: str | None = None) -> tuple[DiffusionGemma, Tokenizer]:
    """Load a model and its tokenizer. Raises CheckpointError if not even one canvas fits, with a recipe that would.

    `warn` is told before the download of a model that is too large, and before one that barely fits is loaded.
    """
    found = find_model(name, warn, revision)
    verdict_on(name, found).heed(warn)
    return load(found.folder)
