"""The entropy bound and the stop tokens of a generation as the JSON files of a checkpoint have them."""

from pathlib import Path

from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.json_files import read_json


def stored_entropy_bound(sampler: object, path: Path) -> object:
    """The entropy bound in a stored sampler config. Raises CheckpointError for a sampler of another kind."""
    if sampler is None:
        return None
    if not isinstance(sampler, dict):
        raise CheckpointError(f"{path}: sampler_config is {sampler!r}; it must be a JSON object")
    kind = sampler.get("_cls_name")
    if kind != "EntropyBoundSamplerConfig":
        raise CheckpointError(f"{path}: sampler_config is of kind {kind!r}; only EntropyBoundSamplerConfig is known")
    return sampler.get("entropy_bound")


def stop_tokens_of_model(path: Path) -> object:
    """The stop token of the model's own config, at its top or in its text part; None when it names none."""
    if not path.is_file():
        return None
    stored = read_json(path)
    text = stored.get("text_config")
    for place in (stored, text if isinstance(text, dict) else {}):
        if place.get("eos_token_id") is not None:
            return place["eos_token_id"]
    return None
