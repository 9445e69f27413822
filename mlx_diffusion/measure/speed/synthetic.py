"""A model of any configuration with random weights, in the formats of a recipe: for timing what is not at hand.

Weights are made matrix by matrix, packed bits directly, so that no second copy of anything is ever in memory and the
whole 26B takes what its 4-bit checkpoint takes. They are scaled so that activations stay finite: every matrix gives
outputs as large as its inputs, every norm has weight 1. Knows nothing of real weights, and its text means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.layout import DECODER, Piece, pieces, quantization_table, text_tensors
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.device import activation_dtype
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer

WORD_BITS = 32
# Bits of a random word that are kept. An 8-bit float's upper exponent bit is dropped, or some would be NaN.
MASKS = {"mxfp8": 0xBFBFBFBF}
# A word whose numbers are all 1, by which the values of scales are read off.
ONES = {"mxfp4": 0x22222222, "nvfp4": 0x22222222, "mxfp8": 0x38383838}
SAMPLE_WORDS = 1 << 12


@dataclass(frozen=True)
class Blueprint:
    """A synthetic model before it is made: its config.json, as it would be saved, and what its tensors become."""

    raw: Mapping[str, Any]
    config: ModelConfig
    pieces: tuple[Piece, ...]

    def spec(self, path: str) -> QuantSpec | None:
        """The format of the matrix at a path of the model."""
        return self.config.quantization.of(DECODER + path) if self.config.quantization else None


def plan(
    raw: Mapping[str, Any], recipe: Recipe, layers: int | None = None, canvas_length: int | None = None
) -> Blueprint:
    """What a model of this config.json is in a recipe, if wanted with its last layers alone or another canvas.

    Raises OptionError for bounds that it does not have, CheckpointError for a config that cannot be read or quantised.
    """
    text = dict(raw.get("text_config") or {})
    changed = {name: value for name, value in raw.items() if not name.startswith(("quantization", "vision_"))}
    if canvas_length is not None:
        if canvas_length < 1:
            raise OptionError(f"--canvas-length is {canvas_length}; it must be 1 or more")
        changed["canvas_length"] = canvas_length
    ModelConfig.from_dict({**changed, "text_config": text})  # before anything of it is relied on
    if layers is not None:
        text = _last_layers(text, layers)
    changed["text_config"] = text
    config = ModelConfig.from_dict(changed)
    try:
        made = tuple(pieces(text_tensors(config), recipe))
    except CheckpointError as error:  # whose remedy is a conversion's
        reason = str(error).partition(";")[0]
        raise CheckpointError(f"{reason}, so it has no {recipe.name}; take another recipe, or bf16") from None
    table = quantization_table(made)
    if table is not None:
        changed["quantization"] = {**table, **{p.module: False for p in made if p.spec is None}}
    return Blueprint(changed, ModelConfig.from_dict(changed), made)


def make(
    planned: Blueprint, seed: int = 0, report: Callable[[int, int], None] = lambda done, total: None
) -> DiffusionGemma:
    """The model with random weights, in memory. `report` is told how many bytes of how many are made."""
    model = DiffusionGemma(planned.config)

    def spec_of(path: str, module: nn.Module) -> dict[str, int | str] | bool:
        spec = planned.spec(path) if hasattr(module, "to_quantized") else None
        return False if spec is None else {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode}

    nn.quantize(model, class_predicate=spec_of)  # lazy, as all of the model is until its arrays are replaced
    parameters = dict(tree_flatten(model.parameters()))
    total = sum(_bytes(path, array) for path, array in parameters.items())
    generator, done = np.random.default_rng(seed), 0
    for path in list(parameters):
        parameter = parameters.pop(path)
        array = _random(path, parameter.shape, parameter.dtype, planned.spec(path.rpartition(".")[0]), generator)
        del parameter
        mx.eval(array)
        model.update(tree_unflatten([(path, array)]))
        done += array.nbytes
        report(done, total)
    model.eval()
    model.generation_defaults = GenerationConfig()
    return model


def save(planned: Blueprint, model: DiffusionGemma, folder: Path) -> None:
    """Write the model as a checkpoint of mlx-community's layout, generation defaults included, without a tokenizer."""
    settings = model.generation_defaults.resolve()
    generation = {
        "max_denoising_steps": settings.max_denoising_steps,
        "t_min": settings.t_min,
        "t_max": settings.t_max,
        "stability_threshold": settings.stability_threshold,
        "confidence_threshold": settings.confidence_threshold,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": settings.entropy_bound},
    }
    raw = {**planned.raw, "vision_config": None}  # spelled out: mlx-vlm takes a missing one for a default tower
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    tensors = {_tensor_name(path): array for path, array in dict(tree_flatten(model.parameters())).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})


class SyntheticTokenizer(Tokenizer):
    """A tokenizer for a vocabulary that stands for nothing: every token is a dot."""

    def __init__(self) -> None:
        super().__init__(None)

    def decode(self, tokens: Sequence[int]) -> str:
        return "." * len(tokens)

    def is_byte(self, token: int) -> bool:
        return False


def _last_layers(text: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """text_config with its last layers alone, which end with a full one as they must."""
    types = text["layer_types"]
    if not 1 <= layers <= len(types):
        raise OptionError(f"--layers is {layers}; this configuration has 1 to {len(types)}")
    first = len(types) - layers
    cut = {**text, "num_hidden_layers": layers, "layer_types": types[first:]}
    if "per_layer_config" in text:
        cut["per_layer_config"] = {
            str(int(index) - first): sizes for index, sizes in text["per_layer_config"].items() if int(index) >= first
        }
    return cut


def _tensor_name(path: str) -> str:
    """How the files of mlx-vlm and of mlx-community name a parameter."""
    layer, _, name = path.rpartition(".")
    if name == "encoder_scalar":
        return f"model.encoder.language_model.{layer}.layer_scalar"
    return f"{DECODER}{layer}.layer_scalar" if name == "decoder_scalar" else DECODER + path


def _bytes(path: str, parameter: mx.array) -> int:
    floating = mx.issubdtype(parameter.dtype, mx.floating)
    return parameter.size * (activation_dtype().size if floating else parameter.dtype.size)


def _random(
    path: str, shape: tuple[int, ...], dtype: mx.Dtype, spec: QuantSpec | None, generator: np.random.Generator
) -> mx.array:
    """What stands at a path: packed bits, their scales or biases, a matrix, or ones for norms and scalars."""
    name = path.rpartition(".")[2]
    if dtype == mx.uint32:
        assert spec is not None
        bits = generator.integers(0, 1 << WORD_BITS, shape, dtype=np.uint32)
        if spec.mode in MASKS:
            bits &= np.uint32(MASKS[spec.mode])
        return mx.array(bits)
    if spec is not None and name in ("scales", "biases"):
        width = shape[-1] * spec.group_size
        scale, bias = _group(spec, width**-0.5)
        return mx.full(shape, scale if name == "scales" else bias, dtype=_kept(dtype))
    if len(shape) < 2:
        return mx.ones(shape, dtype=activation_dtype())
    values = mx.random.normal(shape, dtype=activation_dtype(), key=mx.random.key(int(generator.integers(1 << 62))))
    return values * shape[-1] ** -0.5


def _kept(dtype: mx.Dtype) -> mx.Dtype:
    """The type of scales in memory: as they are packed, or that of activations."""
    return activation_dtype() if mx.issubdtype(dtype, mx.floating) else dtype


def _group(spec: QuantSpec, deviation: float) -> tuple[float, float]:
    """Scale and bias, as they are stored, that give random bits this standard deviation around 0."""
    if spec.mode == "affine":
        levels = 1 << spec.bits
        scale = deviation / ((levels**2 - 1) / 12) ** 0.5
        return scale, -scale * (levels - 1) / 2
    words = np.random.default_rng(0).integers(0, 1 << WORD_BITS, SAMPLE_WORDS, dtype=np.uint32)
    words &= np.uint32(MASKS.get(spec.mode, 0xFFFFFFFF))
    values = _scale_values(spec)
    unit = int(np.nanargmin(np.abs(values - 1)))
    numbers = _dequantised(words.reshape(-1, spec.group_size * spec.bits // WORD_BITS), unit, spec)
    return int(np.nanargmin(np.abs(values - deviation / numbers.std()))), 0.0


def _scale_values(spec: QuantSpec) -> np.ndarray:
    """What each of the 256 codes of a scale multiplies by; NaN where it is none."""
    words = np.full((256, spec.group_size * spec.bits // WORD_BITS), ONES[spec.mode], dtype=np.uint32)
    values = _dequantised(words, np.arange(256), spec)[:, 0]
    return np.where(np.isfinite(values), values, np.nan)


def _dequantised(words: np.ndarray, codes: int | np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Groups, one a row, as numbers; each with its own code of a scale, or all with one."""
    scales = mx.array(np.broadcast_to(codes, len(words)).astype(np.uint8))[:, None]
    numbers = mx.dequantize(mx.array(words), scales, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    return np.array(numbers.astype(mx.float32))
