"""Models with random weights: shapes and formats of a recipe, calm activations, and the same from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, config_dict
from mlx.utils import tree_flatten

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.pieces import written_tensors
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.fit import memory
from mlx_diffusion.fit.cost import parameter_bytes
from mlx_diffusion.fit.products import formats_of
from mlx_diffusion.generation import generate
from mlx_diffusion.loading import load_model
from mlx_diffusion.measure.speed.synthetic import Blueprint, SyntheticTokenizer
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage

RAW = config_dict(hidden_size=128, intermediate_size=128, moe_intermediate_size=128)
REAL = json.loads((FIXTURES / "real_config" / "config.json").read_text())


def arrays(model: DiffusionGemma) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


@pytest.mark.parametrize("name", ["bf16", "4bit", "4bit-small", "3bit", "mxfp4", "mxfp8", "nvfp4"])
def test_it_is_what_the_recipe_says_and_stays_calm(name: str, tmp_path: Path) -> None:
    blueprint = Blueprint.of(RAW, RECIPES[name])
    told: list[tuple[int, int]] = []
    model = blueprint.build(report=lambda done, total: told.append((done, total)))

    assert told[-1] == (parameter_bytes(model),) * 2
    assert parameter_bytes(model) == memory.weight_bytes(written_tensors(blueprint.pieces), memory.CPU_ITEM)
    for path in ("layers.0.experts.down_proj", "layers.2.self_attn.o_proj", "embed_tokens", "layers.1.router.proj"):
        assert formats_of(model)(path) == RECIPES[name].spec(f"model.decoder.{path}")

    cache = model.make_cache()
    hidden = model.encode([Passage(mx.arange(3, 60), cache)])
    logits = model.denoise(mx.arange(8), None, cache)
    assert 0.5 < float(mx.sqrt((hidden**2).mean())) < 2
    assert 0.5 < float(logits.std()) < 2, "neither flat nor certain, and so no NaN"

    blueprint.save(model, tmp_path)
    again = arrays(load_model(Checkpoint.open(tmp_path)))
    for path, array in arrays(model).items():
        assert array.dtype == again[path].dtype and bool((array == again[path]).all()), path


def test_no_second_copy_is_ever_in_memory() -> None:
    blueprint = Blueprint.of(config_dict(hidden_size=256, num_experts=16, moe_intermediate_size=256), RECIPES["4bit"])
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model = blueprint.build()
    peak = mx.get_peak_memory() - before
    largest = max(array.nbytes for array in arrays(model).values())
    assert peak <= parameter_bytes(model) + 2 * largest


def test_the_same_seed_gives_the_same_weights() -> None:
    blueprint = Blueprint.of(RAW, RECIPES["4bit"], layers=1)
    first, second, other = (arrays(blueprint.build(seed))["embed_tokens.weight"] for seed in (0, 0, 1))
    assert bool((first == second).all()) and not bool((first == other).all())


def test_layers_and_canvas_can_be_cut() -> None:
    cut = Blueprint.of(REAL, RECIPES["4bit"], layers=2, canvas_length=32).config
    assert cut.layer_types == ("sliding_attention", "full_attention")
    assert (cut.canvas_length, cut.vocab_size) == (32, 262_144)
    per_layer = {str(index): {"head_dim": 32, "num_key_value_heads": 1} for index in (2,)}
    assert Blueprint.of(config_dict(per_layer_config=per_layer), RECIPES["bf16"], layers=2).config.global_head_dim == 32


def test_it_writes_text_of_any_length() -> None:
    model = Blueprint.of(RAW, RECIPES["4bit"], layers=1).build()
    assert generate(model, SyntheticTokenizer(), [3, 4, 5], max_tokens=20, max_denoising_steps=2) == "." * 20


def test_bits_are_spread_over_all_values() -> None:
    packed = arrays(Blueprint.of(RAW, RECIPES["4bit"], layers=1).build())["layers.0.experts.down_proj.weight"]
    nibbles = np.bincount(np.array(packed.view(mx.uint8)).reshape(-1) & 15, minlength=16)
    assert nibbles.min() > 0.8 * nibbles.mean()


@pytest.mark.parametrize(
    ("layers", "canvas", "named"), [(0, None, "--layers is 0"), (4, None, "1 to 3"), (None, 0, "--canvas-length is 0")]
)
def test_wrong_cuts(layers: int | None, canvas: int | None, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        Blueprint.of(RAW, RECIPES["4bit"], layers, canvas)


def test_groups_that_do_not_divide_are_told() -> None:
    with pytest.raises(CheckpointError, match=r"experts\.down_proj has rows of 48 .* or bf16"):
        Blueprint.of(config_dict(moe_intermediate_size=48), RECIPES["3bit"])
