"""Schedules of passes: those of a recorded run, and those that the three ways of writing would take.

A text is written by denoising canvases, one token a pass, or by drafts that one pass checks. Made from counts alone;
knows nothing of time, chips or tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from mlx_diffusion.events import Stats
from mlx_diffusion.fit.prediction import Pass, PassKind, Schedule
from mlx_diffusion.options import DEFAULTS

REPORTED_STEPS = 26  # a canvas of 256 of the published model, long answers: github.com/lablup/mlxcel/pull/218


def denoising(prompt: int, tokens: int, canvas: int, steps: int) -> Schedule:
    """Canvases of `canvas` positions, each denoised in `steps` steps; all but the last are encoded."""
    passes: list[Pass] = []
    for first in range(0, tokens, canvas):
        prefix = prompt + first
        passes.append(Pass("draft", canvas, prefix, canvas))
        if steps > 1:
            passes.append(Pass("denoise", canvas, prefix, canvas, steps - 1))
        if first + canvas < tokens:
            passes.append(Pass("encode", canvas, prefix, 0))
    return Schedule(prompt_passes(prompt), tuple(passes), tokens)


def autoregressive(prompt: int, tokens: int) -> Schedule:
    """One token a pass; all passes are taken to stand where the middle one stands."""
    return Schedule(prompt_passes(prompt), (Pass("decode", 1, prompt + tokens // 2, 1, tokens),), tokens)


def speculative(prompt: int, tokens: int, width: int, accepted: float, drafts: int = 1) -> Schedule:
    """Rounds of `drafts` denoising steps over `width` positions and one pass that checks them.

    `accepted` is the number of tokens that a round makes final on average, the checking pass's own included.
    """
    rounds, middle = math.ceil(tokens / accepted), prompt + tokens // 2
    passes = [Pass("draft", width, middle, width, rounds)]
    if drafts > 1:
        passes.append(Pass("denoise", width, middle, width, rounds * (drafts - 1)))
    passes.append(Pass("decode", width, middle, width, rounds))
    return Schedule(prompt_passes(prompt), tuple(passes), tokens)


def prompt_passes(prompt: int, part: int = DEFAULTS.prefill_step_size) -> tuple[Pass, ...]:
    """The passes that encode a prompt, in parts of so many tokens."""
    return tuple(Pass("encode", min(part, prompt - first), first, 0) for first in range(0, prompt, part))


def grown(width: int, part: int, prefix: int, times: int = 1) -> tuple[Pass, Pass]:
    """What a draft of `width` positions adds to the pass that encodes a prompt's last part: a larger one, less the old.

    part: positions of that part. prefix: those of the prompt before it.
    """
    return Pass("decode", part + width, prefix, 1 + width, times), Pass("decode", part, prefix, 1, -times)


def schedule_of(passes: Iterable[Pass], stats: Stats, beside: Iterable[Pass] = ()) -> Schedule:
    """The schedule of a recorded run of one row, whatever its mode: its passes in their order, and its figures.

    beside: what a draft added to the prompt's last pass. Passes before the whole prompt is encoded are the prompt's.
    Of the others, those alike in all but their prefix become one entry, at the mean of their prefixes.
    """
    prompt: list[Pass] = []
    alike: dict[tuple[PassKind, int, int], list[Pass]] = {}
    for one in passes:
        if one.prefix < stats.prompt_tokens:
            prompt.append(one)
        else:
            alike.setdefault((one.kind, one.positions, one.logits), []).append(one)
    writing = []
    for group in alike.values():
        times = sum(one.times for one in group)
        prefix = round(sum(one.prefix * one.times for one in group) / times)
        writing.append(replace(group[0], prefix=prefix, times=times))
    return Schedule(tuple(prompt), (*beside, *writing), stats.generated_tokens)
