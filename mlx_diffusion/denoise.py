"""Denoising one canvas: from random tokens to the block's text, one evaluated step at a time.

Knows nothing of text, stop tokens or the blocks before and after: it reads the prefix through the cache and gives one
record a step. Rows of a batch are finished one by one; a finished row stays as it is while the others go on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from . import sampler, stopping
from .cache import PrefixCache
from .errors import CheckpointError
from .model import DiffusionGemma
from .noise import Noise
from .options import Settings
from .sampler import Acceptance, EntropyBound


@dataclass(frozen=True)
class State:
    """What one denoising step hands to the next."""

    canvas: mx.array  # int32 [B, L], the next input
    soft: mx.array | None  # [B, L, D], the self-conditioning signal; None before the first step
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


def denoise_canvas(
    model: DiffusionGemma,
    cache: PrefixCache,
    noise: Noise,
    settings: Settings,
    *,
    block: int,
    ended: tuple[bool, ...],
    acceptance: Acceptance | None = None,
) -> Iterator[StepRecord]:
    """Denoise the canvas that follows the cached prefix; yield a record a step, until every row is done.

    `ended` marks rows whose text is already complete: they ride along and nobody waits for them. `acceptance` says
    which tokens a step keeps; without it the settings' entropy bound does. Each step is
    evaluated before its record is yielded, with one synchronisation, so closing the generator leaves no work behind.
    Raises `CheckpointError` when the model gives NaN.
    """
    shape = (len(ended), model.config.canvas_length)
    acceptance = acceptance or EntropyBound(settings.entropy_bound)
    state = first_state(noise, block, shape, ended)
    for step in range(settings.max_denoising_steps):
        canvas = state.canvas
        # The logits float32 [B, L, V] have no name here, or they would live until the next ones are there.
        state, entropy, accepted = next_state(
            model, model.denoise(canvas, state.soft, cache), noise, settings, acceptance, block, step, state
        )
        flags = mx.stack([state.done, mx.isnan(entropy).any(axis=-1)])  # [2, B]
        # The soft signal stays lazy: the next step computes it, and after the last step nobody does.
        mx.eval(flags, canvas, state.canvas, state.argmax, state.streak, accepted, entropy)
        done, is_nan = np.array(flags).tolist()
        if any(is_nan):
            raise CheckpointError(
                f"the model gives NaN at block {block}, step {step}: its weights are damaged or were converted "
                "wrongly; download or convert the checkpoint again"
            )
        yield StepRecord(canvas, state.argmax, accepted, entropy, tuple(done))
        if all(done):
            return


def first_state(noise: Noise, block: int, shape: tuple[int, int], ended: tuple[bool, ...]) -> State:
    """What the first denoising step starts from: random canvases [B, L]."""
    return State(
        canvas=noise.initial(block, shape),
        soft=None,
        argmax=mx.full(shape, -1, dtype=mx.int32),
        streak=mx.zeros(shape[:1], dtype=mx.int32),
        done=mx.array(ended),
    )


def next_state(
    model: DiffusionGemma,
    logits: mx.array,
    noise: Noise,
    settings: Settings,
    acceptance: Acceptance,
    block: int,
    step: int,
    state: State,
) -> tuple[State, mx.array, mx.array]:
    """What a denoising step makes of the model's logits [B, L, V] for the state's canvas, lazily.

    The next state, the entropies [B, L] and the accepted positions [B, L]. Of the model only the embeddings are used.
    """
    logits = logits / sampler.temperature(step, settings.max_denoising_steps, settings.t_min, settings.t_max)
    proposed = sampler.sample(logits, noise.gumbel(block, step, logits.shape))
    argmax = mx.argmax(logits, axis=-1).astype(mx.int32)
    entropy = sampler.entropy(logits)
    accepted = acceptance(entropy, sampler.probability(logits, proposed))
    canvas = mx.where(accepted, proposed, noise.renoise(block, step, state.canvas.shape))
    soft = model.soft_embedding(logits)

    held = state.done[:, None]
    argmax = mx.where(held, state.argmax, argmax)
    canvas = mx.where(held, state.canvas, canvas)
    if state.soft is not None:
        soft = mx.where(held[..., None], state.soft, soft)
    streak = stopping.agreement(argmax, state.argmax, state.streak)
    finished = stopping.stable_and_confident(
        streak, entropy.mean(axis=-1), settings.stability_threshold, settings.confidence_threshold
    )
    return State(canvas, soft, argmax, streak, state.done | finished), entropy, accepted
