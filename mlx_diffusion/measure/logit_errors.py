"""The errors of a conversion's logits on a few prompts: their distance from the logits of its source.

Measured are the Kullback-Leibler divergence, the share of positions with the same most likely token and the distance
of the logits themselves, where denoising starts (random canvases without a soft signal) and where it ends (canvases
that the converted model denoised). Positions are few, some are near ties, and at some a rounding chooses another
expert: so each figure comes with what is certain of it, or is that of the middle position. Both models get the same
canvas and the same soft signal, at converged canvases that of the source at the last step's temperature. So the errors
are those of a single step and do not grow over a run. Both checkpoints run layer by layer: memory holds one layer and
both embeddings. Knows nothing of how large an error may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.engine.noise import KeyedNoise
from mlx_diffusion.engine.rules import temperature
from mlx_diffusion.measure.layerwise import (
    Denoised,
    PromptedCanvas,
    Watch,
    denoised,
    hidden_states,
    load_ends,
    unwatched,
)
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

PROMPTS = ("Copy: fig oak ant", "In words: 4217", "Write one sentence about rain.")
LOGIT_ROWS = 16  # positions whose logits are compared at once: two arrays of 17 MB at the real size
SEED = 0
STEPS = 16  # at most, where a user's runs have up to 48: every step reads the whole converted checkpoint
RANDOM, CONVERGED = "random", "converged"
SURE = 3.0  # standard errors below a mean, where it lies for certain
EXPLAINED = 4 * 2**0.5  # times the error of a logit: two of them change places by chance only where they are nearer
LEAST = 1e-30  # spread of logits, for dividing by that of a model that says nothing


@dataclass(frozen=True)
class LogitError:
    """The distance between the logits of two models, over the positions of a canvas or of all canvases of a kind."""

    canvases: str  # RANDOM or CONVERGED
    prompt: str | None  # None: all of them
    positions: int
    divergence: float  # source from converted, in nats, mean over positions
    least: float  # the mean that is certain from so many positions
    worst: float  # the largest of any position
    equal: float  # share of positions with the same most likely token
    lost: int  # positions with another one although the source's margin is wider than errors of this size explain
    error: float  # of the logits, as a share of their spread, at the middle position


def logit_errors(
    original: Checkpoint,
    converted: Checkpoint,
    tell: Callable[[float, str], None],
    texts: Sequence[str] = PROMPTS,
    watch: Watch = unwatched,
) -> tuple[list[LogitError], list[Denoised]]:
    """The errors of each kind of canvas, of all and of each prompt, and the canvases that the converted model made.

    `texts` are what a user says; `tell` is told the share that is done and what is at work; `watch` is entered with
    each part of the source while the compared canvases run through it. Raises CheckpointError.
    """
    tokenizer = load_tokenizer(original.folder)
    prompts = [tuple(_tokens(tokenizer, text, original.config.vocab_size)) for text in texts]
    settings = _settings(original)
    noise = KeyedNoise(SEED, original.config.vocab_size)
    passes = settings.max_denoising_steps + 3  # all steps of the converted model and one more, and two of the source
    done = 0

    def advance(index: int) -> None:
        nonlocal done
        done += 1
        tell(done / (passes * original.config.num_hidden_layers), f"logits, layer {index}")

    converted_ends = load_ends(converted)
    canvases = denoised(converted, converted_ends, prompts, noise, settings, advance)
    done = settings.max_denoising_steps * original.config.num_hidden_layers
    shape = (1, original.config.canvas_length)
    random = [PromptedCanvas(prompt, noise.initial(block, shape)[0]) for block, prompt in enumerate(prompts)]
    converged = [PromptedCanvas(prompt, canvas.canvas) for prompt, canvas in zip(prompts, canvases, strict=True)]

    original_ends = load_ends(original)
    states = hidden_states(original, original_ends, [*random, *converged], advance, watch)
    last = temperature(settings.max_denoising_steps - 1, settings.max_denoising_steps, settings.t_min, settings.t_max)
    for index, state in enumerate(states[len(random) :]):
        soft = original_ends.soft_embedding(original_ends.logits(state) / last)
        mx.eval(soft)
        converged[index] = replace(converged[index], soft=soft)
    states[len(random) :] = hidden_states(original, original_ends, converged, advance, watch)
    others = hidden_states(converted, converted_ends, [*random, *converged], advance)

    errors = []
    pairs = list(zip(states, others, strict=True))
    for kind, own in ((RANDOM, pairs[: len(random)]), (CONVERGED, pairs[len(random) :])):
        compared = [_compared(original_ends, converted_ends, *pair) for pair in own]
        errors.append(_logit_error(kind, None, np.concatenate(compared, axis=1)))
        errors += [_logit_error(kind, text, one) for text, one in zip(texts, compared, strict=True)]
    return errors, canvases


def _settings(checkpoint: Checkpoint) -> Settings:
    """The checkpoint's own settings, with at most STEPS steps."""
    own = GenerationConfig.from_checkpoint(checkpoint.folder).resolve()
    return replace(own, max_denoising_steps=min(own.max_denoising_steps, STEPS))


def _tokens(tokenizer: Tokenizer, text: str, vocab_size: int) -> list[int]:
    if not tokenizer.has_chat_template:
        return tokenizer.encode_prompt(text, vocab_size)
    return tokenizer.encode_prompt([{"role": "user", "content": text}], vocab_size)


def _compared(original: DiffusionGemma, converted: DiffusionGemma, state: mx.array, other: mx.array) -> np.ndarray:
    """Float32 [4, L]: at each position the divergence in nats, equality of the likeliest token, the logits' error, and
    the margin of the source's most likely token over the converted model's, both as a share of the logits' spread.

    state and other are [L, D].
    """
    parts = []
    for start in range(0, state.shape[0], LOGIT_ROWS):
        rows = slice(start, start + LOGIT_ROWS)
        logits = original.logits(state[rows]), converted.logits(other[rows])
        p, q = (array - mx.logsumexp(array, axis=-1, keepdims=True) for array in logits)
        best, chosen = (mx.argmax(array, axis=-1, keepdims=True) for array in logits)
        spread = mx.maximum(mx.std(logits[0], axis=-1), LEAST)
        margin = mx.take_along_axis(logits[0], best, axis=-1) - mx.take_along_axis(logits[0], chosen, axis=-1)
        found = [
            (mx.exp(p) * (p - q)).sum(axis=-1),
            (best == chosen).squeeze(-1).astype(mx.float32),
            mx.std(logits[1] - logits[0], axis=-1) / spread,
            margin.squeeze(-1) / spread,
        ]
        parts.append(np.array(mx.stack(found)))
    return np.concatenate(parts, axis=1)


def _logit_error(kind: str, prompt: str | None, compared: np.ndarray) -> LogitError:
    """The error over some positions. No divergence is negative, but rounding can make one of nearly 0 so."""
    divergence, equal, errors, margin = compared.astype(np.float64)
    count, mean, error = len(divergence), max(float(divergence.mean()), 0.0), float(np.median(errors))
    least = mean - SURE * float(divergence.std()) / count**0.5
    lost = int((margin > EXPLAINED * error).sum())
    return LogitError(kind, prompt, count, mean, least, float(divergence.max()), float(equal.mean()), lost, error)
