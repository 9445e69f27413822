"""A checkpoint run layer by layer: the same as the model, with one layer's weights at a time."""

from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER, Checkpoint
from mlx_diffusion.convert import convert
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.noise import KeyedNoise, SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import REFERENCE
from mlx_diffusion.events import Draft
from mlx_diffusion.loading import load_model
from mlx_diffusion.measure.layerwise import PromptedCanvas, denoised, hidden_states, load_ends
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Later(SeededDraws):
    """The draws of a later block, as those of the first."""

    block: int = 0

    def initial(self, block: int, length: int) -> mx.array:
        return super().initial(self.block, length)

    def gumbel(self, block: int, step: int, length: int) -> mx.array:
        return super().gumbel(self.block, step, length)

    def renoise(self, block: int, step: int, length: int) -> mx.array:
        return super().renoise(self.block, step, length)


def prompt_of(length: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(length).integers(10, 96, length).tolist())


@pytest.mark.parametrize("name", ["hub", "two-full"])
@pytest.mark.parametrize("length", [5, 32, 70])
def test_layer_by_layer_is_the_model(name: str, length: int) -> None:
    """Behind prompts shorter and longer than the window, with and without a soft signal."""
    checkpoint = Checkpoint.open(FIXTURES / name)
    assert 5 < checkpoint.config.sliding_window < 70 and len(set(checkpoint.config.layer_types)) == 2
    prompt = prompt_of(length)
    canvas = mx.arange(10, 10 + checkpoint.config.canvas_length)
    model, ends = load_model(checkpoint), load_ends(checkpoint)
    cache = model.make_cache()
    model.encode([Passage(mx.array(prompt), cache)])
    first = model.denoise(canvas, None, cache)
    soft = model.soft_embedding(first)
    second = model.denoise(canvas, soft, cache)
    layers: list[int] = []
    # A prompt of another length beside it: each canvas sees its own.
    drafts = [
        PromptedCanvas(prompt, canvas),
        PromptedCanvas(prompt_of(9), canvas),
        PromptedCanvas(prompt, canvas, soft),
    ]
    states = hidden_states(checkpoint, ends, drafts, layers.append)
    for state, logits in zip(states[::2], (first, second), strict=True):
        assert np.abs(np.array(ends.logits(state) - logits)).max() < 1e-4
    assert layers == list(range(checkpoint.config.num_hidden_layers))


def test_a_quantised_checkpoint_too(source: Path, target: Path) -> None:
    convert(source, target, "4bit")
    checkpoint = Checkpoint.open(target)
    model, ends = load_model(checkpoint), load_ends(checkpoint)
    cache = model.make_cache()
    model.encode([Passage(mx.array([3, 4, 5]), cache)])
    canvas = mx.arange(8)
    (state,) = hidden_states(checkpoint, ends, [PromptedCanvas((3, 4, 5), canvas)], lambda index: None)
    assert np.abs(np.array(ends.logits(state) - model.denoise(canvas, None, cache))).max() < 1e-4


@pytest.mark.parametrize(("folder", "settles"), [(FIXTURES / "hub", [False, False]), (DEMO_FOLDER, [True, False])])
def test_denoising_layer_by_layer_is_that_of_the_model(folder: Path, settles: list[bool]) -> None:
    """Prompts of different lengths side by side, each as alone, up to the last step or until the rule ends it."""
    checkpoint = Checkpoint.open(folder)
    settings = replace(GenerationConfig.from_checkpoint(folder).resolve(), max_denoising_steps=5)
    if not any(settles):
        settings = replace(settings, confidence_threshold=0.0)
    noise = KeyedNoise(3, checkpoint.config.vocab_size)
    chat = [{"role": "user", "content": "Copy: fig oak ant"}]
    prompts = [tuple(load_tokenizer(folder).encode_prompt(chat, checkpoint.config.vocab_size)), prompt_of(40)]
    found = denoised(checkpoint, load_ends(checkpoint), prompts, noise, settings, lambda index: None)
    model = load_model(checkpoint)
    for block, (prompt, canvas) in enumerate(zip(prompts, found, strict=True)):
        request = Request(prompt, settings, Later(noise, block), REFERENCE)
        events = run(model, load_tokenizer(folder), [request])
        drafts = [event for event in events if isinstance(event, Draft) and event.block == 0]
        assert canvas.steps == len(drafts)
        assert canvas.canvas.tolist() == drafts[-1].argmax.tolist()
    assert [canvas.settled for canvas in found] == settles
