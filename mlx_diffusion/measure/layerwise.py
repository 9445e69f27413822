"""A checkpoint run layer by layer, one layer's weights in memory at a time: for models larger than the machine.

Prompts and canvases go through the layers together, since a layer of a canvas needs the keys and values that the same
layer made of the prompt. A slow twin of the model's own passes and of its denoising, with equal results. Knows nothing
of comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_diffusion.checkpoint import weights
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.tensor_names import VISION
from mlx_diffusion.engine.noise import KeyedNoise, SeededDraws
from mlx_diffusion.engine.rules import REFERENCE, Rules, temperature
from mlx_diffusion.engine.step import Turn, first_canvas, step
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.network.cache import Prefix, PrefixCache
from mlx_diffusion.network.flat import Flat
from mlx_diffusion.network.layers import RotaryEmbedding
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Seen, View
from mlx_diffusion.network.traces import plainly
from mlx_diffusion.network.transformer import Layer, encoder_blocks
from mlx_diffusion.options import Settings


@dataclass(frozen=True)
class PromptedCanvas:
    """A canvas int32 [L] behind a prompt, and the soft signal [L, D] that it is denoised with, if any."""

    prompt: tuple[int, ...]
    canvas: mx.array
    soft: mx.array | None = None


@dataclass(frozen=True)
class Denoised:
    """A canvas int32 [L] after denoising, the number of steps, and whether the checkpoint's stop rule ended them."""

    canvas: mx.array
    steps: int
    settled: bool


class SingleLayer(nn.Module):
    """One layer under the path that it has in the whole model."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        layer_type = config.layer_types[index]
        layer = Layer(config, layer_type, RotaryEmbedding(config, layer_type))
        self.layers = [*(nn.Module() for _ in range(index)), layer]


def load_ends(checkpoint: Checkpoint) -> DiffusionGemma:
    """The checkpoint without its layers: embeddings and head, the final norm, the self-conditioning."""
    ends = DiffusionGemma(replace(checkpoint.config, layer_types=()))
    _fill(ends, checkpoint, lambda path: not path.startswith("layers."))
    return ends


def load_layer(checkpoint: Checkpoint, index: int) -> SingleLayer:
    """One layer of the checkpoint."""
    single = SingleLayer(checkpoint.config, index)
    _fill(single, checkpoint, lambda path: path.startswith(f"layers.{index}."))
    return single


Watch = Callable[[nn.Module], AbstractContextManager[None]]  # for as long as something runs through a module


def unwatched(module: nn.Module) -> AbstractContextManager[None]:
    """Nobody looks on."""
    return nullcontext()


Prompts = tuple[Sequence[tuple[int, ...]], Flat, mx.array]  # all that are encoded, their layout, and [N, D] of them
Canvases = tuple[Sequence[tuple[int, ...]], Sequence[View], Flat, mx.array]  # the prompt of each, views, layout, [N, D]


def through(
    single: SingleLayer, config: ModelConfig, index: int, texts: Prompts, canvases: Canvases
) -> tuple[mx.array, mx.array]:
    """Prompts and the canvases behind them through one layer: what comes out of it, [N, D] each. Lazy."""
    prompts, layout, encoded = texts
    owners, views, flat, x = canvases
    layer, layer_type = single.layers[index], config.layer_types[index]
    caches = {prompt: PrefixCache(config, spare=0).layers[index] for prompt in prompts}
    blocks = [encoder_blocks(config, layer_type, 0, len(prompt)) for prompt in prompts]
    encoded = layer.encode(encoded, layout, [0] * len(prompts), blocks, list(caches.values()))
    behind = [caches[prompt].seen_by_canvas(few_shapes=False) for prompt in owners]
    x, _ = layer.denoise(x, flat, views, behind, [None] * len(views))
    return encoded, x


def hidden_states(
    checkpoint: Checkpoint,
    ends: DiffusionGemma,
    drafts: Sequence[PromptedCanvas],
    advance: Callable[[int], None],
    watch: Watch = unwatched,
) -> list[mx.array]:
    """The output of the last layer for each canvas, [L, D]; `advance` is told the number of each layer that is done."""
    softs = [ends.no_signal(draft.canvas.shape[0]) if draft.soft is None else draft.soft for draft in drafts]
    views = [View(draft.canvas, soft, place_behind(draft.prompt)) for draft, soft in zip(drafts, softs, strict=True)]
    layers = Layerwise(checkpoint, ends, [draft.prompt for draft in drafts], advance, watch)
    flat = Flat.of([view.tokens.shape[0] for view in views])
    return flat.take(layers.decode(views, flat))


@dataclass(frozen=True)
class Layerwise:
    """A checkpoint as the `engine.step.Network` of a denoising step; each row stands behind its own prompt."""

    checkpoint: Checkpoint
    ends: DiffusionGemma
    prompts: Sequence[tuple[int, ...]]
    advance: Callable[[int], None]
    watch: Watch = unwatched

    def survey(
        self, views: Sequence[View], temperatures: Sequence[mx.array], gumbels: Sequence[mx.array]
    ) -> list[Seen]:
        """As `DiffusionGemma.survey`."""
        flat = Flat.of([view.tokens.shape[0] for view in views])
        return self.ends.survey_hidden(self.ends.norm(self.decode(views, flat)), views, temperatures, gumbels)

    def run(self, function: Callable[..., Any], module: None, *arguments: Any) -> Any:
        """Run the function as it is: nothing here runs often enough to be worth a trace."""
        return plainly(function, module, *arguments)

    def decode(self, views: Sequence[View], flat: Flat) -> mx.array:
        """Canvases behind their prompts, run through one layer after the other: [N, D]."""
        config, ends = self.checkpoint.config, self.ends
        prompts = list(dict.fromkeys(self.prompts))
        texts = Flat.of([len(prompt) for prompt in prompts])
        encoded = ends.embed(texts.join([mx.array(prompt) for prompt in prompts]))
        soft = flat.join([view.soft for view in views])
        with self.watch(ends):
            x = ends.self_conditioning(ends.embed(flat.join([view.tokens for view in views])), soft)
            mx.eval(x)
        for index in range(config.num_hidden_layers):
            single = load_layer(self.checkpoint, index)
            with self.watch(single):
                encoded, x = through(single, config, index, (prompts, texts, encoded), (self.prompts, views, flat, x))
                mx.eval(encoded, x)
            del single
            mx.clear_cache()
            self.advance(index)
        return x


def denoised(
    checkpoint: Checkpoint,
    ends: DiffusionGemma,
    prompts: Sequence[tuple[int, ...]],
    noise: KeyedNoise,
    settings: Settings,
    advance: Callable[[int], None],
) -> list[Denoised]:
    """The first canvas behind each prompt, denoised with these settings; prompt i draws the noise of block i.

    All canvases take a step together, so each step reads every layer once. `advance` is told the number of
    each layer that is done. Raises CheckpointError when the model gives NaN.
    """
    length, draws, rules = checkpoint.config.canvas_length, SeededDraws(noise), Rules.of(settings)
    canvases = [first_canvas(draws.initial(block, length), ends.no_signal(length)) for block in range(len(prompts))]
    steps = [0] * len(prompts)
    settled = [False] * len(prompts)
    for number in range(settings.max_denoising_steps):
        running = [block for block in range(len(prompts)) if not settled[block]]
        if not running:
            break
        degrees = temperature(number, settings.max_denoising_steps, settings.t_min, settings.t_max)
        turns = [
            Turn(
                canvases[block],
                place_behind(prompts[block]),
                mx.array([degrees]),
                draws.gumbel(block, number, length),
                draws.renoise(block, number, length),
                rules,
                REFERENCE,
            )
            for block in running
        ]
        network = Layerwise(checkpoint, ends, [prompts[block] for block in running], advance)
        stepped = step(network, turns)
        mx.eval(stepped)
        for block, one in zip(running, stepped, strict=True):
            if np.isnan(np.array(one.canvas.survey.entropy)).any():
                raise CheckpointError(f"{checkpoint.folder} gives NaN at denoising step {number}; convert it again")
            canvases[block], steps[block], settled[block] = one.canvas, number + 1, bool(one.finished.item())
    return [Denoised(canvases[block].survey.argmax, steps[block], settled[block]) for block in range(len(prompts))]


def place_behind(prompt: tuple[int, ...]) -> Prefix:
    """The position of a canvas behind its prompt; the keys and values that it sees are made layer by layer."""
    return Prefix([], {}, mx.array(len(prompt)))


def _fill(module: nn.Module, checkpoint: Checkpoint, wanted: Callable[[str], bool]) -> None:
    """Fill a part of the model with the tensors that belong to it."""

    def belongs(name: str) -> bool:
        path = weights.parameter_path(name)
        return path is not None and wanted(path) and not name.startswith(VISION)

    weights.fill(module, checkpoint.tensors(belongs), checkpoint.config.quantization, where=str(checkpoint.folder))
