"""The files beside a checkpoint's weights that loading takes: the defaults of a generation, and the tokenizer.

Knows nothing of weights.
"""

from __future__ import annotations

from pathlib import Path

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.config_json import require
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import load_tokenizer

DEFAULTS = "generation_config.json"


def generation_defaults(folder: Path, config: ModelConfig) -> GenerationConfig:
    """What the checkpoint in a folder says of generations. Raises CheckpointError."""
    defaults = GenerationConfig.from_checkpoint(folder)
    for token in defaults.eos_token_id or ():
        where = f"{folder}/{DEFAULTS}: eos_token_id"
        require(token < config.vocab_size, where, token, f"must be below vocab_size = {config.vocab_size}")
    try:
        defaults.resolve()  # beside the documented defaults of what the file does not say
    except OptionError as error:
        raise CheckpointError(f"{folder}/{DEFAULTS}: {error}") from error
    return defaults


def check_beside(folder: Path, config: ModelConfig) -> None:
    """Refuse what loading the folder would refuse, whatever its weights are. Raises CheckpointError."""
    generation_defaults(folder, config)
    load_tokenizer(folder)
