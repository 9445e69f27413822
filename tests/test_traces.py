"""Traced steps: the tokens of untraced ones, few traces over many lengths, flat memory, and nothing kept alive.

Under Linux MLX compiles what it fuses with the machine's C++ compiler: under a minute, once on a machine.
"""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, write_shallow
from mlx.utils import tree_flatten

from mlx_diffusion.engine.engine import Engine
from mlx_diffusion.engine.memory_limits import memory_limits
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import REFERENCE
from mlx_diffusion.events import Draft, Event
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.loading import load
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.traces import rounded
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer

Pair = tuple[DiffusionGemma, Tokenizer]


@pytest.fixture
def traced() -> Pair:
    model, tokenizer = load(FIXTURES / "hub")
    model.compiled = True
    return model, tokenizer


def run(pair: Pair, prompt: Any, **options: Any) -> list[Event]:
    return list(stream_generate(*pair, prompt, eos_token_id=(), **options))


def prompt_of(length: int) -> list[int]:
    return np.random.default_rng(length).integers(10, 96, length).tolist()


@pytest.mark.parametrize("length", [3, 40])
def test_traced_steps_take_the_same_tokens(traced: Pair, length: int) -> None:
    drafts = []
    for compiled in (True, False):
        traced[0].compiled = compiled
        events = run(traced, prompt_of(length), max_tokens=40, max_denoising_steps=4)
        drafts.append([event for event in events if isinstance(event, Draft)])
    assert len(drafts[0]) == len(drafts[1]) >= 10
    for ours, twin in zip(*drafts, strict=True):
        for name in ("canvas", "argmax", "accepted"):
            assert (getattr(ours, name) == getattr(twin, name)).all()


def test_a_thousand_requests_of_mixed_lengths_have_few_traces_and_memory_stays_flat(tmp_path: Path) -> None:
    """Prompts, canvases and companies of every size; what is traced is bounded by the sizes that `rounded` gives."""
    model, tokenizer = load(write_shallow(FIXTURES / "hub", tmp_path / "shallow"))
    model.compiled = True
    rng = np.random.default_rng(0)
    settings = model.generation_defaults.resolve(
        GenerationConfig(max_tokens=16, max_denoising_steps=1, eos_token_id=())
    )
    engine, held, counts, most = Engine(model, tokenizer), [], [], 0
    with memory_limits():
        for number in range(1000):
            length, canvas = int(rng.integers(1, 41 if number % 4 else 201)), int(rng.integers(1, 17))
            own = replace(settings, max_tokens=canvas, canvas_length=canvas, seed=number)
            draws = SeededDraws.of(number, model.config.vocab_size)
            engine.add(Request(tuple(prompt_of(length)), own, draws, REFERENCE))
            most = max(most, len(engine))
            while len(engine) > rng.integers(0, 5):
                engine.advance()
            if number % 10 == 9:
                while engine:
                    engine.advance()
                held.append(mx.get_active_memory())
                counts.append(model._traces.count)
    # Eight functions (layers of two kinds project and finish, the signal is mixed in, the last norm, a chunk of the
    # vocabulary is looked at, chunks are joined) meet batches of few sizes. Canvases of 8 or 16 places, all taken or
    # not, attend behind a full layer's 4 sizes, or a sliding layer's that is empty, partly or wholly seen, and are
    # turned in layers of two kinds. 16 lengths have rules and noise.
    sizes = {rounded(positions) for positions in range(1, most * 16 + 1)}
    assert counts[-1] <= 8 * len(sizes) + 2 * 2 * (4 + 3) + 2 * 2 + 2 * 16
    assert counts[-1] - counts[len(counts) // 2] <= 5, "and later requests meet the traces of earlier ones"
    assert max(held[-20:]) - max(held[20:40]) < 4096


def test_a_model_that_nobody_holds_is_freed(traced: Pair) -> None:
    model, tokenizer = load(FIXTURES / "hub")
    model.compiled = True
    run((model, tokenizer), prompt_of(5), max_tokens=16, max_denoising_steps=2)
    before = mx.get_active_memory()
    weights = sum(array.nbytes for array in dict(tree_flatten(model.parameters())).values())
    del model
    gc.collect()
    assert mx.get_active_memory() <= before - weights
