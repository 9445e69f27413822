"""The rules of denoising: how hot a step is, which tokens it keeps, when a canvas is finished, where a text ends.

Small pure functions of a row's canvas, of the network's survey of it, and of the row's own numbers. Knows nothing of
models, seeds or text. The published rules are those of Transformers' `EntropyBoundSampler` (after Ben-Hamu et al. 2025,
https://arxiv.org/abs/2505.24857) and `StableAndConfidentStoppingCriteria`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from mlx_diffusion.network.cache import KeysValues
from mlx_diffusion.network.head import Survey
from mlx_diffusion.options import Settings

INT32_MAX = 2**31 - 1

# (entropies in nats, probabilities of the proposed tokens), float32 [1, L] both -> the positions to keep, bool [1, L]
Proposal = Literal["sample", "argmax"]
FigureRule = Callable[[mx.array, mx.array], mx.array]


class Canvas(NamedTuple):
    """A row's canvas between two steps: the loop's only state. L positions."""

    tokens: mx.array  # int32 [L], the next input
    survey: Survey  # [L] each, of the last step that forwarded a position; argmax -1 and soft 0 before
    streak: mx.array  # int32 [], how many steps before had the same argmax
    kept: tuple[KeysValues, ...] = ()  # a layer each, [1, K, L, S], where the next step lets positions rest
    pinned: mx.array | None = None  # int32 [L], tokens that no step changes, -1 where there is none; None: nowhere
    locked: mx.array | None = None  # bool [L], positions that may rest; None: none ever does

    @property
    def free(self) -> mx.array | None:
        """The positions that are not pinned, bool [L]; None: all of them."""
        return None if self.pinned is None else self.pinned < 0


class Rules(NamedTuple):
    """A row's numbers, as arrays: rows with other numbers share a trace, where they have the same levers."""

    bound: mx.array  # float32 [], nats
    stability: mx.array  # int32 []
    confidence: mx.array  # float32 [], nats
    early_end: mx.array | None  # float32 [], a probability, as are the next two; None: the lever is off
    lock: mx.array | None
    crop: mx.array | None
    stops: mx.array  # int32 [a power of two], the tokens that end a text; -1 where there are fewer

    @classmethod
    def of(cls, settings: Settings, ends: bool = True) -> Rules:
        """The numbers of these settings. ends: a stop token ends the text; it does not where more is known of it."""
        return cls(
            mx.array(float(settings.entropy_bound)),
            mx.array(min(settings.stability_threshold, INT32_MAX)),
            mx.array(float(settings.confidence_threshold)),
            _probability(settings.early_end),
            _probability(settings.lock_threshold),
            _probability(settings.crop_threshold),
            _padded(settings.eos_token_id if ends else ()),
        )


def _probability(threshold: float) -> mx.array | None:
    return mx.array(float(threshold)) if threshold < 1 else None


def _padded(tokens: Sequence[int]) -> mx.array:
    missing = 2 ** (max(len(tokens), 1) - 1).bit_length() - len(tokens)
    return mx.array([*tokens, *[-1] * missing], dtype=mx.int32)


class Acceptance(Protocol):
    """Which of the proposed tokens a step keeps. Pure; MLX may trace it, and equal rules share a trace."""

    def __call__(self, survey: Survey, canvas: Canvas, rules: Rules) -> mx.array:
        """survey: of all positions, its sample being the proposed tokens. canvas: before the step. Returns bool [L].

        A pinned position has entropy 0 and probability 1, and what a rule says of it has no effect.
        """
        ...


class Focus(Protocol):
    """Which positions of a canvas a step forwards; the others keep their last keys, values and survey."""

    def __call__(self, canvas: Canvas, step: int) -> mx.array | None:
        """int32 [A] within the canvas, A from a few sizes; None for all, as the first step of a canvas must."""
        ...


def temperature(step: int, steps: int, t_min: float, t_max: float) -> float:
    """The temperature of denoising step `step` (0 … steps − 1): linear from t_max towards t_min.

    Computed in float32, as the reference does, so that logits divided by it agree to the last bit.
    """
    remaining = np.float32(steps - step) / np.float32(steps)
    return float(np.float32(t_min) + np.float32(t_max - t_min) * remaining)


def within_entropy_bound(survey: Survey, canvas: Canvas, rules: Rules) -> mx.array:
    """The reference's acceptance.

    In ascending order of entropy, a position is kept while the entropies *before* it sum to at most `bound` nats; so
    the most certain one is always kept, and the mutual information of all that are kept stays below the bound.
    """
    order = mx.argsort(survey.entropy)
    ascending = survey.entropy[order]
    keep = mx.cumsum(ascending) - ascending <= rules.bound
    return keep[mx.argsort(order)]


@dataclass(frozen=True)
class Confidence:
    """Keeps the tokens whose own probability is at least `threshold`, and always the most probable one.

    The rule that other implementations default to, decided anew at every step; they also never take a kept token back.
    """

    threshold: float

    def __call__(self, survey: Survey, canvas: Canvas, rules: Rules) -> mx.array:
        free = canvas.free
        best = mx.argmax(survey.probability if free is None else mx.where(free, survey.probability, -1))
        return (survey.probability >= self.threshold) | (mx.arange(survey.probability.shape[0]) == best)


@dataclass(frozen=True)
class OfFigures:
    """A caller's own rule of acceptance, which knows no more than two figures of each position."""

    rule: FigureRule

    def __call__(self, survey: Survey, canvas: Canvas, rules: Rules) -> mx.array:
        return self.rule(survey.entropy[None], survey.probability[None])[0]


@dataclass(frozen=True)
class Policy:
    """How canvases are denoised: the rules of a mode."""

    acceptance: Acceptance = within_entropy_bound
    focus: Focus | None = None  # None: every step forwards all positions
    proposal: Proposal = "sample"  # what a step keeps, where it keeps something


def everything(survey: Survey, canvas: Canvas, rules: Rules) -> mx.array:
    """Keeps all that is proposed: for drafts that somebody else judges."""
    return mx.full(survey.entropy.shape, True)


REFERENCE = Policy()
DRAFTS = {sampled: Policy(everything, proposal="sample" if sampled else "argmax") for sampled in (False, True)}


def agreement(argmax: mx.array, previous: mx.array, streak: mx.array) -> mx.array:
    """How many earlier steps in a row had this same argmax canvas: int32 [L] twice, int32 [] -> int32 [].

    `previous` is the argmax of the step before (-1 everywhere when there is none), `streak` its agreement.
    """
    return mx.where((argmax == previous).all(), streak + 1, 0)


def stable_and_confident(streak: mx.array, survey: Survey, rules: Rules, free: mx.array | None = None) -> mx.array:
    """Whether a canvas is finished, bool []: its argmax has been the same for `stability` steps before this one, and
    the mean entropy of its free positions, bool [L], is below `confidence`."""
    mean = survey.entropy.mean() if free is None else mx.where(free, survey.entropy, 0).sum() / free.sum()
    return (streak >= rules.stability) & (mean < rules.confidence)


def through_stop(tokens: Sequence[int], stop_ids: Collection[int]) -> tuple[list[int], bool]:
    """`tokens` up to and including the first stop token, and whether there was one."""
    for index, token in enumerate(tokens):
        if token in stop_ids:
            return list(tokens[: index + 1]), True
    return list(tokens), False
