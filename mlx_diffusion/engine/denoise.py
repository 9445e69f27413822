"""Denoising one canvas: from random tokens to the block's text, one evaluated step at a time.

Knows nothing of text, stop tokens or the blocks before and after: it reads the prefix through the cache and gives one
record a step. Rows of a batch are finished one by one; a finished row stays as it is while the others go on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine import stopping
from mlx_diffusion.engine.noise import Noise, gumbel_source
from mlx_diffusion.engine.sampler import Acceptance, temperature
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.head import Survey
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import Settings


class State(NamedTuple):
    """What one denoising step hands to the next."""

    canvas: mx.array  # int32 [B, L], the next input
    soft: mx.array  # [B, L, D], the self-conditioning signal; zeros before the first step
    argmax: mx.array  # int32 [B, L], the block's text so far; -1 before the first step
    streak: mx.array  # int32 [B], how many steps before had the same argmax
    done: mx.array  # bool [B], rows that are finished


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What one denoising step did, evaluated. Rows that were done before the step repeat their last argmax."""

    canvas: mx.array  # int32 [B, L], the step's input
    argmax: mx.array  # int32 [B, L], the most likely tokens; the last record's are the block's text
    accepted: mx.array  # bool [B, L], the positions whose sample was kept
    entropy: mx.array  # float32 [B, L], in nats
    done: tuple[bool, ...]  # [B], rows that are finished after this step


class Denoiser:
    """Denoises the canvases of one run: with these settings, this randomness and this rule of acceptance."""

    def __init__(self, model: DiffusionGemma, settings: Settings, noise: Noise, acceptance: Acceptance) -> None:
        self.model = model
        self.settings = settings
        self.noise = noise
        self._limits = mx.array(settings.stability_threshold), mx.array(settings.confidence_threshold)
        rules = partial(decided, acceptance)
        self._decided = mx.compile(rules) if model.compiled else rules

    def canvas(self, cache: PrefixCache, *, block: int, ended: tuple[bool, ...]) -> Iterator[StepRecord]:
        """Denoise the canvas that follows the cached prefix; yield a record a step, until every row is done.

        `ended` marks rows whose text is already complete: they ride along and nobody waits for them. Each step is
        evaluated before its record is yielded, with one synchronisation, so closing the generator leaves no work
        behind. Raises `CheckpointError` when the model gives NaN.
        """
        prefix = cache.prefix()
        state = self.first(block, ended)
        for step in range(self.settings.max_denoising_steps):
            canvas = state.canvas
            said = self.model.survey(canvas, state.soft, prefix, *self.draws(block, step, canvas.shape))
            state, accepted = self.next(said, state, block, step)
            flags = mx.stack([state.done, mx.isnan(said.entropy).any(axis=-1)])  # [2, B]
            mx.eval(flags, canvas, state, accepted, said.entropy)
            done, is_nan = np.array(flags).tolist()
            if any(is_nan):
                raise CheckpointError(
                    f"the model gives NaN at block {block}, step {step}: its weights are damaged or were converted "
                    "wrongly; download or convert the checkpoint again"
                )
            yield StepRecord(canvas, state.argmax, accepted, said.entropy, tuple(done))
            if all(done):
                return

    def first(self, block: int, ended: tuple[bool, ...]) -> State:
        """What the first denoising step starts from: random canvases [B, L]."""
        shape = (len(ended), self.model.config.canvas_length)
        return State(
            canvas=self.noise.initial(block, shape),
            soft=self.model.no_signal(shape),
            argmax=mx.full(shape, -1, dtype=mx.int32),
            streak=mx.zeros(shape[:1], dtype=mx.int32),
            done=mx.array(ended),
        )

    def draws(self, block: int, step: int, shape: tuple[int, ...]) -> tuple[mx.array, mx.array]:
        """A step's temperature, float32 [], and its Gumbel noise, as `survey` takes it, for canvases [B, L]."""
        settings = self.settings
        degrees = temperature(step, settings.max_denoising_steps, settings.t_min, settings.t_max)
        return mx.array(degrees), gumbel_source(self.noise, block, step, (*shape, self.model.config.vocab_size))

    def next(self, said: Survey, state: State, block: int, step: int) -> tuple[State, mx.array]:
        """What a step makes of the model's survey, lazily: the next state, and the accepted positions [B, L]."""
        fresh = self.noise.renoise(block, step, state.canvas.shape)
        *after, accepted = self._decided(self._limits, said, state, fresh)
        return State(*after), accepted


def decided(
    acceptance: Acceptance,
    limits: tuple[mx.array, mx.array],
    said: tuple[mx.array, ...],
    state: tuple[mx.array, ...],
    fresh: mx.array,
) -> tuple[mx.array, ...]:
    """The rules of a step as one pure function: the next state's arrays, and the accepted positions [B, L].

    limits are the stability and the confidence that end a canvas; fresh int32 [B, L] takes the place of the tokens that
    are not accepted. `Survey` and `State` come as plain tuples, which is what a trace passes on.
    """
    said, state = Survey(*said), State(*state)
    accepted = acceptance(said.entropy, said.probability)
    held = state.done[:, None]
    argmax = mx.where(held, state.argmax, said.argmax)
    canvas = mx.where(held, state.canvas, mx.where(accepted, said.sample, fresh))
    soft = mx.where(held[..., None], state.soft, said.soft)
    streak = stopping.agreement(argmax, state.argmax, state.streak)
    finished = stopping.stable_and_confident(streak, said.entropy.mean(axis=-1), *limits)
    return canvas, soft, argmax, streak, state.done | finished, accepted
