"""A recorded run: the schedule of a text that a checkpoint really wrote, and the experts that its routers chose.

The choices give the number of distinct experts that a pass over so many neighbouring positions needs, for every width
up to that of the passes. Knows nothing of chips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_diffusion.events import Finish
from mlx_diffusion.fit.prediction import Pass, PassKind, Schedule, Touched
from mlx_diffusion.fit.schedules import grown, schedule_of
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.network.layers import Router
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage, Seen, View
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Prompt, Tokenizer


@dataclass(frozen=True)
class RecordedRun:
    """One text: its schedule, and the mean number of distinct experts a layer by number of neighbouring positions."""

    schedule: Schedule
    experts: int  # that a layer has
    chosen: int  # for each position
    distinct: Mapping[int, float]  # widths 1, 2, 4, … to what passes over so many positions needed

    def touched(self) -> Touched:
        """The distinct experts for any number of positions, between the recorded widths by interpolation."""
        widths = sorted(self.distinct)
        needed = [self.distinct[width] for width in widths]
        return lambda positions: float(np.interp(positions, widths, needed))


def record_run(model: DiffusionGemma, tokenizer: Tokenizer, prompt: Prompt, config: GenerationConfig) -> RecordedRun:
    """Let the model answer one prompt, untraced, and record its passes and its routers' choices."""
    with recorded(model) as recording:
        *_, end = stream_generate(model, tokenizer, prompt, config=config)
        choices = [np.array(one) for one in recording.choices]
    assert isinstance(end, Finish)
    sizes = model.config
    schedule = schedule_of(recording.passes, end.stats, recording.beside)
    return RecordedRun(schedule, sizes.num_experts, sizes.top_k_experts, distinct_experts(choices))


@dataclass
class Recording:
    """What a model has been asked for: passes of one row, and its routers' choices, int [T, A] a layer and pass."""

    passes: list[Pass] = field(default_factory=list)
    beside: list[Pass] = field(default_factory=list)  # what a draft added to the prompt's last pass
    choices: list[mx.array] = field(default_factory=list)

    def take_encoding(self, passage: Passage) -> None:
        logits = passage.looked_at or 0
        kind: PassKind = "decode" if logits else "encode"
        count, offset = passage.tokens.shape[0], passage.cache.offset
        self.passes.append(Pass(kind, count, offset, logits))
        if passage.canvas is not None:
            self.beside += grown(passage.canvas.shape[0], count, offset)

    def take_step(self, view: View) -> None:
        """The first step behind an encoded text has no soft signal."""
        is_first = not self.passes or self.passes[-1].kind in ("encode", "decode")
        count = view.tokens.shape[0]
        self.passes.append(Pass("draft" if is_first else "denoise", count, int(np.array(view.prefix.position)), count))


@contextmanager
def recorded(model: DiffusionGemma) -> Iterator[Recording]:
    """Record what the model is asked for while the context lasts; it computes the same, untraced."""
    recording = Recording()
    encode, survey, compiled = model.encode, model.survey, model.compiled
    routers = [layer.router for layer in model.layers]

    def recording_encode(passages: Sequence[Passage]) -> mx.array:
        for passage in passages:
            recording.take_encoding(passage)
        return encode(passages)

    def recording_survey(
        views: Sequence[View], temperatures: Sequence[mx.array], gumbels: Sequence[mx.array]
    ) -> list[Seen]:
        for view in views:
            recording.take_step(view)
        return survey(views, temperatures, gumbels)

    model.compiled = False  # a trace would run a router's Python once
    model.encode, model.survey = recording_encode, recording_survey  # type: ignore[method-assign]
    for layer in model.layers:
        layer.router = RecordingRouter(layer.router, recording.choices)
    try:
        yield recording
    finally:
        del model.encode, model.survey
        model.compiled = compiled
        for layer, router in zip(model.layers, routers, strict=True):
            layer.router = router


class RecordingRouter(Router):
    """A router that keeps what it has chosen."""

    def __init__(self, router: Router, choices: list[mx.array]) -> None:
        nn.Module.__init__(self)
        self.router = router
        self._choices = choices

    def __call__(self, r: mx.array) -> tuple[mx.array, mx.array]:
        """As the router that it wraps."""
        experts, weights = self.router(r)
        self._choices.append(experts)
        return experts, weights


def distinct_experts(choices: Sequence[np.ndarray]) -> dict[int, float]:
    """The mean number of distinct experts among neighbouring positions, by their number: 1, 2, 4, …

    choices  int [T, A] each: the experts of the positions of a pass, in one layer
    """
    counts: dict[int, list[int]] = {}
    for one in choices:
        width = 1
        while width <= len(one):
            windows = range(0, len(one) - width + 1, width)
            counts.setdefault(width, []).extend(len(np.unique(one[first : first + width])) for first in windows)
            width *= 2
    return {width: float(np.mean(found)) for width, found in sorted(counts.items())}
