"""A loaded checkpoint that answers prompts, each with randomness of its own, and counts the cost.

Knows nothing of which answers are right, nor of where else prompts are being answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.denoising_row import first_turn
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.guides import guides_of
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import REFERENCE, through_stop
from mlx_diffusion.engine.step import step
from mlx_diffusion.events import Draft, Event, Finish
from mlx_diffusion.loading import load
from mlx_diffusion.measure.answers.modes import MeasuredMode
from mlx_diffusion.measure.passes import PassCounter, Passes
from mlx_diffusion.modes import DENOISING
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig, Settings
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
    constraints: Sequence[Mapping[str, Any] | None] | None = None  # one for each prompt, where some are held to one


@dataclass(frozen=True)
class Answer:
    """The text written on one prompt, and its cost, as `PromptOutcome` has it."""

    text: str
    steps: int
    canvases: int
    limited: int
    tokens: int
    accepted: int = 0
    work: Passes | None = None


def answer_of(events: Sequence[Event], settings: Settings) -> Answer:
    """What the events of one whole row say of its text and of its cost."""
    denoises = settings.mode in DENOISING
    counter = PassCounter(denoises)
    steps = Counter(event.block for event in events if isinstance(event, Draft))  # by canvas or draft
    for event in events:
        counter.take(event)
    (stats,) = (event.stats for event in events if isinstance(event, Finish))
    return Answer(
        "".join(event.text for event in events),
        steps.total(),
        len(steps) if denoises else 0,
        sum(count == settings.max_denoising_steps for count in steps.values()) if denoises else 0,
        stats.generated_tokens,
        stats.accepted_tokens,
        None if denoises and settings.canvas_length is None and not settings.levers else counter.passes,
    )


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
        """Answer the prompts, in order; those that are drafted one after another, each taught by those before it.

        So the answers of one user teach each other, too, and what comes out does not depend on who works on the batch.
        """
        mode = MeasuredMode.parse(batch.mode)
        options = GenerationConfig(max_tokens=batch.max_tokens, mode=mode.library).override(batch.options)
        settings = self.model.generation_defaults.resolve(options)
        guides = guides_of(batch.constraints, self.model, self.tokenizer, settings, batch.prompts)
        drafts = mode.drafts(self.model)
        requests = [
            Request(tuple(prompt), settings, self._draws(seed), mode.policy(), drafts=drafts, guide=guide)
            for prompt, seed, guide in zip(batch.prompts, batch.seeds, guides, strict=True)
        ]
        answers: list[Answer] = []
        for together in [requests] if drafts is None else [[request] for request in requests]:
            events: list[list[Event]] = [[] for _ in together]
            for event in run(self.model, self.tokenizer, together):
                events[event.row].append(event)
            answers += (answer_of(own, settings) for own in events)
        return answers

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
