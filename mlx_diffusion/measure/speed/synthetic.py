"""Models of any configuration with random weights, in the formats of a recipe: for timing models that are not at hand.

Weights are made matrix by matrix and directly as packed bits, so memory never holds anything twice: the 26B model takes
what its 4-bit checkpoint takes. They are scaled so that activations stay finite: the outputs of every matrix are about
as large as its inputs, and every norm has weight 1. Knows nothing of real weights; the text of such a model means
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import quantise_layers
from mlx_diffusion.checkpoint.pieces import Piece, apply_recipe, quantization_table
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.checkpoint.tensor_names import DECODER
from mlx_diffusion.checkpoint.text_tensors import text_tensors
from mlx_diffusion.device import activation_dtype
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.tokenizer import Tokenizer

WORD_BITS = 32
# Bits of a random word that are kept: without an 8-bit float's upper exponent bit, since some floats with it are NaN.
MASKS = {"mxfp8": 0xBFBFBFBF}
# A word whose numbers are all 1: dequantised, it shows the values of its scales.
ONES = {"mxfp4": 0x22222222, "nvfp4": 0x22222222, "mxfp8": 0x38383838}
SAMPLE_WORDS = 1 << 12


@dataclass(frozen=True)
class Blueprint:
    """A synthetic model before it is built: its config.json, as it would be saved, and its tensors in their formats."""

    raw: Mapping[str, Any]
    config: ModelConfig
    pieces: tuple[Piece, ...]

    @classmethod
    def of(
        cls, raw: Mapping[str, Any], recipe: Recipe, layers: int | None = None, canvas_length: int | None = None
    ) -> Blueprint:
        """The model of this config.json in a recipe, with only its last `layers` layers and another canvas if wanted.

        Raises OptionError for a number out of bounds, CheckpointError for a config that cannot be read or quantised.
        """
        text = dict(raw.get("text_config") or {})
        changed = {name: value for name, value in raw.items() if not name.startswith(("quantization", "vision_"))}
        if canvas_length is not None:
            if canvas_length < 1:
                raise OptionError(f"--canvas-length is {canvas_length}; it must be 1 or more")
            changed["canvas_length"] = canvas_length
        ModelConfig.from_dict({**changed, "text_config": text})  # says what is wrong before anything is read from it
        if layers is not None:
            text = _last_layers(text, layers)
        changed["text_config"] = text
        config = ModelConfig.from_dict(changed)
        try:
            made = tuple(apply_recipe(text_tensors(config), recipe))
        except CheckpointError as error:  # its remedy is for a conversion
            reason = str(error).partition(";")[0]
            raise CheckpointError(f"{reason}, so it has no {recipe.name}; take another recipe, or bf16") from None
        table = quantization_table(made)
        if table is not None:
            changed["quantization"] = {**table, **{p.module: False for p in made if p.spec is None}}
        return cls(changed, ModelConfig.from_dict(changed), made)

    def spec(self, path: str) -> QuantSpec | None:
        """The format of the matrix at a path of the model."""
        return self.config.quantization.of(DECODER + path) if self.config.quantization else None

    def build(self, seed: int = 0, report: Callable[[int, int], None] = lambda done, total: None) -> DiffusionGemma:
        """The model with random weights, in memory. `report` is told the bytes that are made and those of the whole."""
        model = DiffusionGemma(self.config)
        quantise_layers(model, lambda path, layer: self.spec(path))
        # All of it is lazy until its arrays are replaced.
        parameters = dict(tree_flatten(model.parameters()))
        total = sum(_bytes(path, array) for path, array in parameters.items())
        generator, done = np.random.default_rng(seed), 0
        for path in list(parameters):
            parameter = parameters.pop(path)
            array = _random(path, parameter.shape, parameter.dtype, self.spec(path.rpartition(".")[0]), generator)
            del parameter
            mx.eval(array)
            model.update(tree_unflatten([(path, array)]))
            done += array.nbytes
            report(done, total)
        model.eval()
        return model

    def save(self, model: DiffusionGemma, folder: Path) -> None:
        """Write the model as a checkpoint in mlx-community's layout, with generation defaults, without a tokenizer."""
        settings = model.generation_defaults.resolve()
        generation = {
            "max_denoising_steps": settings.max_denoising_steps,
            "t_min": settings.t_min,
            "t_max": settings.t_max,
            "stability_threshold": settings.stability_threshold,
            "confidence_threshold": settings.confidence_threshold,
            "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": settings.entropy_bound},
        }
        raw = {**self.raw, "vision_config": None}  # written out: mlx-vlm reads a missing one as a default tower
        (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
        tensors = {_tensor_name(path): array for path, array in dict(tree_flatten(model.parameters())).items()}
        mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})


class SyntheticTokenizer(Tokenizer):
    """A tokenizer for a vocabulary without meaning, which shows every token as a dot."""

    def __init__(self) -> None:
        super().__init__(None, {})

    def decode(self, tokens: Sequence[int]) -> str:
        return "." * len(tokens)

    def is_byte(self, token: int) -> bool:
        return False


def _last_layers(text: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """text_config with only its last layers; the last of them is a full one, as it must be."""
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
    """The name of a parameter in files of mlx-vlm and of mlx-community."""
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
    """The array for a path: packed bits, their scales or biases, a matrix, or ones for norms and scalars."""
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
    """The type of scales in memory: the packed one for integers, that of activations for floating point."""
    return activation_dtype() if mx.issubdtype(dtype, mx.floating) else dtype


def _group(spec: QuantSpec, deviation: float) -> tuple[float, float]:
    """Scale and bias, as they are stored, with which random bits have this standard deviation around 0."""
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
    """The value of each of the 256 codes of a scale; NaN where it has none."""
    words = np.full((256, spec.group_size * spec.bits // WORD_BITS), ONES[spec.mode], dtype=np.uint32)
    values = _dequantised(words, np.arange(256), spec)[:, 0]
    return np.where(np.isfinite(values), values, np.nan)


def _dequantised(words: np.ndarray, codes: int | np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Groups as numbers, one group a row; `codes` is one code of a scale for each row, or one for all."""
    scales = mx.array(np.broadcast_to(codes, len(words)).astype(np.uint8))[:, None]
    numbers = mx.dequantize(mx.array(words), scales, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    return np.array(numbers.astype(mx.float32))
