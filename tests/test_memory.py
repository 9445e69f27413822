"""What a run takes in memory: exact where it can be, and never less than MLX takes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
from conftest import FIXTURES, config_dict, model_of
from mlx.utils import tree_flatten

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.pieces import apply_recipe, written_tensors
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.checkpoint.text_tensors import text_tensors
from mlx_diffusion.engine.denoising_row import first_turn
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import Policy
from mlx_diffusion.engine.step import step
from mlx_diffusion.fit.memory import CPU_ITEM, GPU_ITEM, Memory, weight_bytes
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.options import DEFAULTS

REAL = ModelConfig.from_dict(json.loads((FIXTURES / "real_config" / "config.json").read_text()))


def test_weights_are_those_that_load_fills() -> None:
    model = model_of(FIXTURES / "hub")
    made = apply_recipe(text_tensors(model.config), RECIPES["bf16"])
    loaded = sum(array.nbytes for array in dict(tree_flatten(model.parameters())).values())
    assert weight_bytes(written_tensors(made), CPU_ITEM) == loaded
    assert weight_bytes(written_tensors(made), GPU_ITEM) == loaded // 2


def test_vision_is_not_loaded_and_packed_bits_stay_as_they_are() -> None:
    matrix = Tensor("model.decoder.layers.0.experts.down_proj", "BF16", (2, 64, 64))
    tower = Tensor("model.encoder.vision_tower.std_bias", "BF16", (64,))
    made = apply_recipe([matrix, tower], RECIPES["4bit"])
    packed, groups = 2 * 64 * 64 // 2, 2 * 64 * 2
    assert weight_bytes(written_tensors(made), GPU_ITEM) == packed + 2 * groups * 2
    assert weight_bytes(written_tensors(made), CPU_ITEM) == packed + 2 * groups * 4


def test_the_cache_of_the_real_model() -> None:
    """20 KiB a token in the five full layers, and in the 25 sliding ones the 1,023 positions that are seen."""
    memory = Memory(REAL, 0)
    window = 25 * 2 * 8 * 256 * 1023 * 2
    assert memory.cache_bytes(106_496) == 106_496 * 20 * 1024 + window
    assert 0 < memory.cache_bytes(100_000) - 100_000 * 20 * 1024 - window < 8192 * 20 * 1024
    assert memory.cache_bytes(512) == 512 * 20 * 1024 + 25 * 2 * 8 * 256 * 512 * 2
    assert replace(memory, item_bytes=CPU_ITEM).cache_bytes(100_000) == 2 * memory.cache_bytes(100_000)


def test_the_steps_of_the_real_model() -> None:
    """The experts of one part of a prompt take the most, at any length: scores come in parts, logits in chunks.

    With short parts it is the logits of a canvas.
    """
    memory = Memory(REAL, 0)
    experts = 2048 * 8 * (7 * 2816 + 4 * 704) * 2
    assert memory.step_bytes(4096) == memory.step_bytes(262_144 - 256) == experts
    logits = 10.2 * 65_536 * 256 * 4
    assert memory.in_steps_of(512).step_bytes(131_072) == round(logits)


def test_the_longest_context_is_the_last_that_fits() -> None:
    memory = Memory(REAL, 9_000_000_000)
    longest = memory.longest_context(11_500_000_000)
    assert longest is not None
    assert memory.total_bytes(longest) <= 11_500_000_000 < memory.total_bytes(longest + 1)
    assert memory.longest_context(10**12) == REAL.max_position_embeddings
    assert memory.longest_context(9_000_000_000) is None
    just = memory.total_bytes(REAL.canvas_length)
    assert memory.longest_context(just) is not None and memory.longest_context(just - 1) is None


def peak_bytes(run: Any) -> int:
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    run()
    return mx.get_peak_memory() - before


def model_with(canvas_length: int, **text: Any) -> DiffusionGemma:
    model = DiffusionGemma(ModelConfig.from_dict(config_dict(**text) | {"canvas_length": canvas_length}))
    mx.eval(model.parameters())
    return model


def test_denoising_takes_no_more_than_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with(48, vocab_size=16_384)
    request = Request((), replace(DEFAULTS, max_denoising_steps=3), SeededDraws.of(0, 16_384), Policy())

    def run() -> None:
        turn = first_turn(model, request)
        for _ in range(3):
            (stepped,) = step(model, [turn])
            mx.eval(stepped._replace(canvas=stepped.canvas._replace(kept=())))
            turn = turn._replace(canvas=stepped.canvas)

    counted = Memory(model.config, 0, CPU_ITEM).step_bytes(0)
    assert peak_bytes(run) < 0.6 * counted, "on a CPU, chunks of the vocabulary are evaluated one by one"
    monkeypatch.setattr("mlx_diffusion.network.model.evaluated_after", mx.depends)
    monkeypatch.setattr("mlx_diffusion.device.cores", lambda: 1)  # on several, parts of a chunk come one after another
    assert 0.75 * counted < peak_bytes(run) <= counted, "in one graph, as on a GPU"


@pytest.mark.parametrize(
    ("text", "part", "context"),
    [
        ({"num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2}, 128, 1024),
        ({"hidden_size": 256, "num_experts": 8, "top_k_experts": 4}, 512, 512),
    ],
    ids=["attention", "experts"],
)
def test_encoding_takes_no_more_than_is_counted(text: dict[str, Any], part: int, context: int) -> None:
    layers = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    model = model_with(64, layer_types=layers, num_hidden_layers=4, **text)
    cache = model.make_cache()

    def encode() -> None:
        model.encode([Passage(mx.full((part,), 5), cache)])
        mx.eval(cache.arrays())

    peaks = [peak_bytes(encode) for _ in range(context // part)]
    memory = Memory(model.config, 0, CPU_ITEM, prefill_step_size=part)
    counted = memory.step_bytes(context) + memory.cache_bytes(part)
    assert math.isfinite(counted) and 0.4 * counted < max(peaks) <= counted
