"""A loaded checkpoint that answers prompts, each with randomness of its own, and counts the cost.

Knows nothing of which answers are right, nor of where else prompts are being answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.denoising_row import first_turn
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import REFERENCE, through_stop
from mlx_diffusion.engine.step import step
from mlx_diffusion.events import Draft, Finish
from mlx_diffusion.loading import load
from mlx_diffusion.measure.answers.modes import MeasuredMode
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.text_stream import TextStream
from mlx_diffusion.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to be answered together, and how."""

    prompts: Sequence[Sequence[int]]  # token ids
    seeds: Sequence[int]  # one for each prompt
    mode: str  # a name that `MeasuredMode.parse` reads
    options: Mapping[str, float]
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """The text written on one prompt, and its cost."""

    text: str
    steps: int  # denoising steps, over all canvases
    canvases: int
    limited: int  # canvases that took as many steps as they may
    tokens: int  # written, the stop token included


@dataclass(frozen=True)
class Examinee:
    """A model and its tokenizer."""

    model: DiffusionGemma
    tokenizer: Tokenizer

    @classmethod
    def of(cls, folder: Path) -> Examinee:
        """Load a checkpoint. Raises `CheckpointError`."""
        return cls(*load(folder))

    def answer(self, batch: PromptBatch) -> list[Answer]:
        """Answer the prompts, in order."""
        mode, count = MeasuredMode.parse(batch.mode), len(batch.prompts)
        options = GenerationConfig(max_tokens=batch.max_tokens, mode=mode.library).override(batch.options)
        settings = self.model.generation_defaults.resolve(options)
        requests = [
            Request(tuple(prompt), settings, self._draws(seed), mode.policy())
            for prompt, seed in zip(batch.prompts, batch.seeds, strict=True)
        ]
        texts = [""] * count
        steps: list[Counter[int]] = [Counter() for _ in range(count)]  # by canvas
        tokens = [0] * count
        for event in run(self.model, self.tokenizer, requests):
            texts[event.row] += event.text
            if isinstance(event, Draft):
                steps[event.row][event.block] += 1
            elif isinstance(event, Finish):
                tokens[event.row] = event.stats.generated_tokens
        limit = settings.max_denoising_steps
        return [
            Answer(text, taken.total(), len(taken), sum(count == limit for count in taken.values()), written)
            for text, taken, written in zip(texts, steps, tokens, strict=True)
        ]

    def first_step(self, prompt: Sequence[int], seed: int) -> tuple[str, str]:
        """The texts after one step at temperature 1: of a draw at every position, and of the most likely tokens."""
        settings = self.model.generation_defaults.resolve()
        request = Request(tuple(prompt), settings, self._draws(seed), REFERENCE)
        (one,) = step(self.model, [first_turn(self.model, request)._replace(temperature=mx.array([1.0]))])
        draw, argmax = (np.array(tokens).tolist() for tokens in (one.canvas.survey.sample, one.canvas.survey.argmax))
        return self._text(draw), self._text(argmax)

    def _draws(self, seed: int) -> SeededDraws:
        return SeededDraws.of(seed, self.model.config.vocab_size)

    def _text(self, canvas: Sequence[int]) -> str:
        """The text of a canvas up to its stop token."""
        stops = self.model.generation_defaults.resolve().eos_token_id
        tokens, _ = through_stop(canvas, stops)
        return TextStream(self.tokenizer, {self.model.config.pad_token_id, *stops}).push(tokens, last=True)
