"""Schedules of passes: those of a recorded run, and those that the three ways of writing would take.

A text is written by denoising canvases, one token a pass, or by drafts that one pass checks. Made from counts alone;
knows nothing of time, chips or tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from mlx_diffusion.events import Draft, Event, Finish, Segment
from mlx_diffusion.fit.prediction import Pass, Schedule
from mlx_diffusion.options import DEFAULTS


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


def schedule_of(events: Iterable[Event]) -> Schedule:
    """The schedule of a recorded run of one row that denoised canvases: its events, `Finish` included.

    Where positions rested, every step is taken to have forwarded as many as all did on average. Of the prompt, those
    tokens are encoded that were not found in a prefix store.
    """
    steps: Counter[int] = Counter()
    final: dict[int, int] = {}
    stats = None
    for event in events:
        if isinstance(event, Draft):
            steps[event.block] += 1
        elif isinstance(event, Segment):
            final[event.block] = final.get(event.block, 0) + len(event.tokens)
        elif isinstance(event, Finish):
            stats = event.stats
    if stats is None or not steps:
        raise ValueError("a recorded run is the events of one row with denoising steps, up to and with its Finish")
    forwarded = round(stats.decoder_positions / stats.denoising_steps)
    passes: list[Pass] = []
    prefix = stats.prompt_tokens
    for block in sorted(steps):
        passes.append(Pass("draft", forwarded, prefix, forwarded))
        if steps[block] > 1:
            passes.append(Pass("denoise", forwarded, prefix, forwarded, steps[block] - 1))
        if block != max(steps):
            passes.append(Pass("encode", final[block], prefix, 0))
            prefix += final[block]
    fresh = stats.prompt_tokens - stats.cached_tokens
    return Schedule(prompt_passes(fresh), tuple(passes), stats.generated_tokens)
