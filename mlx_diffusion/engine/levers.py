"""Levers of denoising: rules by which a canvas takes fewer steps, and steps forward fewer positions.

Small pure functions and a focus, beside the published rules. What each costs in right answers depends on the
checkpoint. Knows nothing of models, seeds or text, nor of which lever is worth it.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.rules import Canvas, Policy, Rules
from mlx_diffusion.network.head import Survey
from mlx_diffusion.options import Settings

BEHIND = 4  # positions that stay behind a settled stop token
WIDTHS = 8  # sizes that a canvas or a focus can have at most, each a multiple of the same step


def rounded_width(count: int, length: int) -> int:
    """The next of the few sizes that `count` of `length` positions come in: multiples of an eighth of them, or of 8."""
    step = max(WIDTHS, -(-length // WIDTHS))
    return min(-(-count // step) * step, length)


def text_is_sure(survey: Survey, canvas: Canvas, rules: Rules, threshold: mx.array) -> mx.array:
    """Early end, bool []: every token of the text has at least this probability, float32 [].

    The text is the most likely tokens up to and including the first stop token, or all of them.
    """
    stops = _stops(survey, canvas, rules)
    in_text = mx.cumsum(stops) - stops == 0
    return mx.where(in_text, survey.peak, 1).min() >= threshold


def settled_length(survey: Survey, canvas: Canvas, rules: Rules, threshold: mx.array) -> mx.array:
    """Crop, int32 []: how many positions the canvas still needs.

    Those through the first stop token and a few more, where the step's input had that token in that place already and
    it has at least this probability, float32 []; otherwise all.
    """
    length = survey.argmax.shape[0]
    stops = _stops(survey, canvas, rules)
    first = mx.argmax(stops)
    confirmed = (canvas.tokens == survey.argmax) & (survey.peak >= threshold)
    settled = stops.any() & confirmed[first]
    needed = mx.minimum(first.astype(mx.int32) + 1 + BEHIND, length)
    return mx.where(settled, needed, length)


def locked(survey: Survey, canvas: Canvas, threshold: mx.array) -> mx.array:
    """Locks, bool [L]: the step's input was the most likely token in that place already, with this probability or more.

    A position that rests has kept both, and stays locked until it is forwarded again.
    """
    return (canvas.tokens == survey.argmax) & (survey.peak >= threshold)


@dataclass(frozen=True)
class Rotation:
    """A focus on what is not locked; of what is, every `every`th position takes its turn at each step.

    The turns keep keys and values fresh, and a position that is no longer sure comes free.
    """

    every: int

    def __call__(self, canvas: Canvas, step: int) -> mx.array | None:
        if step == 0 or canvas.locked is None:
            return None
        is_locked = np.array(canvas.locked)
        places = np.arange(len(is_locked))
        wait = np.where(is_locked, (-(places + step)) % self.every, -1)  # steps until its turn; -1: it is at work
        if canvas.pinned is not None and not (np.array(canvas.pinned)[wait <= 0] < 0).any():
            wait = np.where(np.array(canvas.pinned) < 0, -1, wait)  # something free must be looked at
        width = rounded_width(max(int((wait <= 0).sum()), 1), len(places))
        if width == len(places):
            return None
        return mx.array(np.sort(np.argsort(wait, kind="stable")[:width]), dtype=mx.int32)


def with_focus(policy: Policy, settings: Settings) -> Policy:
    """The policy with the focus that the settings ask for."""
    if settings.lock_threshold >= 1 or policy.focus is not None:
        return policy
    return Policy(policy.acceptance, Rotation(settings.refresh_every), policy.proposal)


def cut(canvas: Canvas, length: int) -> Canvas:
    """The first positions of a canvas; the others leave it with all that is known of them."""
    return Canvas(
        canvas.tokens[:length],
        Survey(*(array[:length] for array in canvas.survey)),
        canvas.streak,
        tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in canvas.kept),
        None if canvas.pinned is None else canvas.pinned[:length],
        None if canvas.locked is None else canvas.locked[:length],
    )


def _stops(survey: Survey, canvas: Canvas, rules: Rules) -> mx.array:
    """Where the most likely token is a stop token, not ahead of one that is pinned, int32 [L]: 1 or 0."""
    stops = (survey.argmax[:, None] == rules.stops).any(axis=-1)
    if canvas.pinned is not None:
        places = mx.arange(stops.shape[0])
        stops = stops & (places >= mx.where(canvas.pinned < 0, 0, places).max())
    return stops.astype(mx.int32)
