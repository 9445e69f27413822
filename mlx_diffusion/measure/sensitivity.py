"""The loss of quantising one group of matrices: measured at the logits, group by group and format by format.

Every change is carried through all layers above it, one layer of the checkpoint in memory at a time, with the states of
as many changes beside it as fit. Loss is the Kullback-Leibler divergence of the logits from the checkpoint's own: on
canvases that it denoised, on the same with half of their tokens drawn at random, and of the encoder on prompts and
answers; each counts a third. Knows nothing of sizes or recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.device import transposed
from mlx_diffusion.engine.noise import KeyedNoise
from mlx_diffusion.measure.layerwise import SingleLayer, denoised, load_ends, load_layer, place_behind, through
from mlx_diffusion.network.flat import Flat
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import View
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

TEXTS = (
    "Sort: pear fig oak lime",
    "Copy: date plum rose",
    "Write one sentence about the sea.",
    "Story: the old lighthouse",
)
SEED = 1
STEPS = 16  # at most, of the canvases that are denoised
LOGITS = 2**25  # of all positions together that are compared, 134 MB in float32: a sample of them where there are more
STATES_BYTES = 2**29  # of the changes that are carried at a time

State = tuple[mx.array, mx.array]  # what comes out of a layer: of prompts and answers, and of canvases, [N, D] each
Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class Change:
    """A group of matrices in another format: their paths in the model, and their layer, None for the ends."""

    paths: tuple[str, ...]
    layer: int | None
    spec: QuantSpec

    @property
    def first(self) -> int:
        """The first layer that knows of it."""
        return self.layer or 0


@dataclass(frozen=True)
class Probe:
    """The canvases and texts that losses are measured on."""

    config: ModelConfig
    texts: tuple[tuple[int, ...], ...]  # prompts, and prompts with their answers
    owners: tuple[tuple[int, ...], ...]  # the prompt of each canvas
    views: tuple[View, ...]  # canvases as they were denoised, then the noisy ones

    def begin(self, ends: DiffusionGemma) -> State:
        """What goes into the first layer."""
        encoded = ends.embed(self._text_layout.join([mx.array(text) for text in self.texts]))
        soft = self._layout.join([view.soft for view in self.views])
        return encoded, ends.self_conditioning(ends.embed(self._layout.join([v.tokens for v in self.views])), soft)

    def step(self, single: SingleLayer, index: int, state: State) -> State:
        """Through one layer."""
        texts = self.texts, self._text_layout, state[0]
        made = through(single, self.config, index, texts, (self.owners, self.views, self._layout, state[1]))
        mx.eval(made)
        return made

    def logits(self, ends: DiffusionGemma, state: State) -> list[mx.array]:
        """Logarithms of probabilities, float32 [positions, V]: converged canvases, noisy ones, encoder."""
        half = state[1].shape[0] // 2
        most = max(LOGITS // self.config.vocab_size // 3, 1)
        made = []
        for hidden in (state[1][:half], state[1][half:], state[0]):
            rows = hidden[:: -(-hidden.shape[0] // most)]
            logits = ends.logits(rows)
            made.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        mx.eval(made)
        return made

    @property
    def _layout(self) -> Flat:
        return Flat.of([view.tokens.shape[0] for view in self.views])

    @property
    def _text_layout(self) -> Flat:
        return Flat.of([len(text) for text in self.texts])


def sensitivities(checkpoint: Checkpoint, changes: Sequence[Change], tell: Tell) -> list[float]:
    """The loss of each change in nats a position. `tell` is told the share that is done, and what is at work."""
    ends, config = load_ends(checkpoint), checkpoint.config
    layers = config.num_hidden_layers
    probe = _probe(checkpoint, ends, lambda index: tell(0.0, f"canvases, layer {index}"))
    own = [probe.begin(ends)]
    for index in range(layers):
        own.append(probe.step(load_layer(checkpoint, index), index, own[-1]))
    right = probe.logits(ends, own[-1])

    losses = [0.0] * len(changes)
    order = sorted(range(len(changes)), key=lambda number: changes[number].first)
    size = max(1, STATES_BYTES // sum(array.nbytes for array in own[0]))
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    for number, batch in enumerate(batches):
        states: dict[int, State] = {}
        for one in batch:
            if changes[one].layer is None:
                with changed(ends, changes[one]):
                    states[one] = probe.begin(ends)
                    mx.eval(states[one])
        for index in range(changes[batch[0]].first, layers):
            tell((number + index / layers) / len(batches), f"layer {index}")
            single = load_layer(checkpoint, index)
            for one, state in states.items():
                states[one] = probe.step(single, index, state)
            for one in batch:
                if changes[one].layer == index:
                    with changed(single, changes[one]):
                        states[one] = probe.step(single, index, own[index])
            del single
            mx.clear_cache()
        for one, state in states.items():
            with changed(ends, changes[one]):
                losses[one] = _divergence(right, probe.logits(ends, state))
    return losses


@contextmanager
def changed(module: nn.Module, change: Change) -> Iterator[None]:
    """A module with those of the change's matrices that are in it rounded to its format."""
    found = [(own, own.weight) for path, own in module.named_modules() if path in change.paths]
    for own, weight in found:
        own.weight = _rounded(weight, change.spec)
    try:
        yield
    finally:
        for own, weight in found:
            own.weight = weight


def _rounded(weight: mx.array, spec: QuantSpec) -> mx.array:
    """Matrices [..., out, in] as the converter would write them, unpacked again."""
    packed, scales, *biases = mx.quantize(weight.astype(mx.bfloat16), spec.group_size, spec.bits, spec.mode)
    scales = scales.astype(weight.dtype) if biases else scales
    offsets = biases[0].astype(weight.dtype) if biases else None
    plain = mx.dequantize(packed, scales, offsets, spec.group_size, spec.bits, spec.mode, dtype=weight.dtype)
    made = transposed(plain).swapaxes(-1, -2)
    mx.eval(made)
    return made


def _divergence(right: Sequence[mx.array], other: Sequence[mx.array]) -> float:
    means = [(mx.exp(p) * (p - q)).sum(axis=-1).mean() for p, q in zip(right, other, strict=True)]
    return max(0.0, float(np.array(mx.stack(means)).mean()))


def _probe(checkpoint: Checkpoint, ends: DiffusionGemma, advance: Callable[[int], None]) -> Probe:
    """Prompts, and canvases that the checkpoint denoises behind them."""
    config, tokenizer = checkpoint.config, load_tokenizer(checkpoint.folder)
    prompts = [_tokens(tokenizer, text, config.vocab_size) for text in TEXTS]
    noise, own = KeyedNoise(SEED, config.vocab_size), GenerationConfig.from_checkpoint(checkpoint.folder).resolve()
    settings = replace(own, max_denoising_steps=min(own.max_denoising_steps, STEPS))
    found = [one.canvas for one in denoised(checkpoint, ends, prompts, noise, settings, advance)]
    fresh = [noise.initial(len(prompts) + number, canvas[None].shape)[0] for number, canvas in enumerate(found)]
    half = mx.arange(config.canvas_length) % 2 == 0
    noisy = [mx.where(half, canvas, drawn) for canvas, drawn in zip(found, fresh, strict=True)]
    nothing = ends.no_signal(config.canvas_length)
    signals = [ends.embed(canvas).astype(nothing.dtype) for canvas in found]  # of one who is certain
    views = [
        View(canvas, soft, place_behind(prompt))
        for canvases, softs in ((found, signals), (noisy, [nothing] * len(noisy)))
        for prompt, canvas, soft in zip(prompts, canvases, softs, strict=True)
    ]
    answers = [(*prompt, *np.array(canvas).tolist()) for prompt, canvas in zip(prompts, found, strict=True)]
    return Probe(config, (*prompts, *answers), (*prompts, *prompts), tuple(views))


def _tokens(tokenizer: Tokenizer, text: str, vocab_size: int) -> tuple[int, ...]:
    prompt = [{"role": "user", "content": text}] if tokenizer.has_chat_template else text
    return tuple(tokenizer.encode_prompt(prompt, vocab_size))
