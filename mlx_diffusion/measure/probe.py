"""Canvases and texts that a checkpoint's logits are compared on: a few prompts, and what the checkpoint makes of them.

Of each prompt there are the canvas that the checkpoint denoised, the same with every other token drawn at random, one
of random tokens alone, and, for the encoder, prompt and answer. All go through the layers together, layer by layer.
Knows nothing of what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.engine.noise import KeyedNoise
from mlx_diffusion.measure.layerwise import SingleLayer, denoised, place_behind, through
from mlx_diffusion.network.flat import Flat
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import View
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

TEXTS = (
    "Write one sentence about the sea.",
    "Sort: cup key bag",
    'In a sentence: {"name": "Bora", "age": 75, "city": "Milan"}',
    "Story: the old lighthouse",
    "Add: 6 + 73",
    'Python: """Return z times 44, then plus y."""',
    "Reverse: pin pea bag",
    "Insert fox anywhere: wig urn elk rat rug",
    "Sudoku:\n2030\n0000\n1300\n4200",
    "In words: 606",
    "As JSON: Tara is 36 and lives in Rome.",
    "Copy: nut key fig hen fox",
    "Latin square: 2761",
    "Date to ISO: 06/04/2011",
    "Shuffle: map urn van",
    'Fill in: """Return n times 71."""\ndef f(n):\n    ___',
    "Replace item 3 with bag: tea pea map rug jar pan",
    "In digits: one thousand four hundred twenty eight",
    "Story: Mova and the ant",
    "Remove any item: owl dog van",
    "Insert pen at 4: net bee key rye ash cow",
    "Remove item 3: fan ash rye ant",
    "Replace any item with lid: wig pin bag bee rye oak",
    "Date to long: 05/21/1968",
)
SEED = 1
STEPS = 16  # at most, of the canvases that are denoised
POSITIONS = 2048  # of the denoised canvases, at most: all texts for a toy, 8 for canvases of 256
LOGITS = 2**25  # of all positions together that are compared, 134 MB in float32: a sample of them where there are more
WORST = 1  # per cent of positions that are left out
KINDS = ("converged", "half random", "random", "encoder")  # of logits

State = tuple[mx.array, mx.array]  # what comes out of a layer: of prompts and answers, and of canvases, [N, D] each


@dataclass(frozen=True)
class Probe:
    """The canvases and texts that logits are compared on."""

    config: ModelConfig
    texts: tuple[tuple[int, ...], ...]  # prompts, and prompts with their answers
    owners: tuple[tuple[int, ...], ...]  # the prompt of each canvas
    views: tuple[View, ...]  # canvases as they were denoised, then with half of their tokens, then the random ones

    def begin(self, ends: DiffusionGemma) -> State:
        """What goes into the first layer."""
        encoded = ends.embed(self._text_layout.join([mx.array(text) for text in self.texts]))
        soft = self._layout.join([view.soft for view in self.views])
        state = encoded, ends.self_conditioning(ends.embed(self._layout.join([v.tokens for v in self.views])), soft)
        mx.eval(state)
        return state

    def step(self, single: SingleLayer, index: int, state: State) -> State:
        """Through one layer."""
        texts = self.texts, self._text_layout, state[0]
        made = through(single, self.config, index, texts, (self.owners, self.views, self._layout, state[1]))
        mx.eval(made)
        return made

    def logits(self, ends: DiffusionGemma, state: State) -> list[mx.array]:
        """Logarithms of probabilities of each of KINDS, float32 [positions, V]."""
        third = state[1].shape[0] // 3
        most = max(LOGITS // self.config.vocab_size // len(KINDS), 1)
        made = []
        for hidden in (*(state[1][start * third : (start + 1) * third] for start in range(3)), state[0]):
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


def make_probe(
    checkpoint: Checkpoint, ends: DiffusionGemma, advance: Callable[[int], None], texts: Sequence[str] = ()
) -> Probe:
    """Prompts, and canvases behind them: `texts`, or as many of TEXTS as there are POSITIONS for.

    `advance` is told the number of each layer that is done.
    """
    config, tokenizer = checkpoint.config, load_tokenizer(checkpoint.folder)
    texts = texts or TEXTS[: max(POSITIONS // config.canvas_length, 1)]
    prompts = list(dict.fromkeys(_tokens(tokenizer, text, config.vocab_size) for text in texts))
    noise, own = KeyedNoise(SEED, config.vocab_size), GenerationConfig.from_checkpoint(checkpoint.folder).resolve()
    settings = replace(own, max_denoising_steps=min(own.max_denoising_steps, STEPS))
    found = [one.canvas for one in denoised(checkpoint, ends, prompts, noise, settings, advance)]
    fresh = [noise.initial(len(prompts) + number, canvas[None].shape)[0] for number, canvas in enumerate(found)]
    half = mx.arange(config.canvas_length) % 2 == 0
    noisy = [mx.where(half, canvas, drawn) for canvas, drawn in zip(found, fresh, strict=True)]
    nothing = [ends.no_signal(config.canvas_length)] * len(prompts)
    signals = [ends.embed(canvas).astype(nothing[0].dtype) for canvas in found]  # of one who is certain
    answers = [(*prompt, *np.array(canvas).tolist()) for prompt, canvas in zip(prompts, found, strict=True)]
    views = [
        View(canvas, soft, place_behind(prompt))
        for canvases, softs in ((found, signals), (noisy, nothing), (fresh, nothing))
        for prompt, canvas, soft in zip(prompts, canvases, softs, strict=True)
    ]
    return Probe(config, tuple(dict.fromkeys((*prompts, *answers))), (*prompts, *prompts, *prompts), tuple(views))


def divergences(right: Sequence[mx.array], other: Sequence[mx.array], left_out: int = WORST) -> tuple[float, ...]:
    """The Kullback-Leibler divergence of each kind's logarithms of probabilities, in nats a position.

    Without those positions that diverge most, one in a hundred (`left_out` per cent): there a token takes another
    expert, which says more of chance than of what was rounded.
    """
    found = []
    for p, q in zip(right, other, strict=True):
        divergence = np.sort(np.array((mx.exp(p) * (p - q)).sum(axis=-1)))
        found.append(max(0.0, float(divergence[: -(-divergence.size * (100 - left_out) // 100)].mean())))
    return tuple(found)


def _tokens(tokenizer: Tokenizer, text: str, vocab_size: int) -> tuple[int, ...]:
    prompt = [{"role": "user", "content": text}] if tokenizer.has_chat_template else text
    return tuple(tokenizer.encode_prompt(prompt, vocab_size))
