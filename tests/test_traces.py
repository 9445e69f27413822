"""Traced steps: the tokens of untraced ones, few traces over many lengths, flat memory, and nothing kept alive.

Under Linux MLX compiles what it fuses with the machine's C++ compiler: under a minute, once on a machine.
"""

import gc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES
from mlx.utils import tree_flatten

from mlx_diffusion.events import Draft, Event
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.loading import load
from mlx_diffusion.network.model import DiffusionGemma
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


def test_many_lengths_have_few_traces_and_memory_stays_flat(traced: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []
    decode = DiffusionGemma._decode

    def counted(*args: Any) -> mx.array:
        traces.append(args)
        return decode(*args)

    monkeypatch.setattr(DiffusionGemma, "_decode", counted)
    lengths = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 201, 4), 2)).tolist()
    held = []
    for length in lengths:
        run(traced, prompt_of(length), max_tokens=16, max_denoising_steps=2)
        held.append(mx.get_active_memory())
    # Full layers have room for 64, 128, 192 or 256 positions, sliding ones for all of their window, or 0.
    assert len(traces) <= 5
    assert max(held[-20:]) - max(held[:20]) < 1024


def test_a_model_that_nobody_holds_is_freed(traced: Pair) -> None:
    model, tokenizer = load(FIXTURES / "hub")
    model.compiled = True
    run((model, tokenizer), prompt_of(5), max_tokens=16, max_denoising_steps=2)
    before = mx.get_active_memory()
    weights = sum(array.nbytes for array in dict(tree_flatten(model.parameters())).values())
    del model
    gc.collect()
    assert mx.get_active_memory() <= before - weights
