"""Texts that follow a guide: drafts up to where it refuses them, and choices with the tokens that must follow.

Knows nothing of how tokens are drafted or chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mlx_diffusion.structure.guide import Guide


class Foreseen(NamedTuple):
    """A draft as far as its guide allows it."""

    tokens: list[int]
    masks: np.ndarray  # uint32 [1 + tokens, words], what may stand in place of each of them and behind them


class Followed(NamedTuple):
    """Tokens that are final, and the guide behind them."""

    tokens: list[int]
    chosen: int  # how many of them were, of those at the beginning; the others must follow
    guide: Guide | None
    end: Literal["stop", "length"] | None  # why nothing follows: all is said, or no room is left


def foreseen(guide: Guide, draft: Sequence[int], most: int) -> Foreseen:
    """At most so many tokens: those of the draft, and among them those that must follow, with which it must agree."""
    masks, rest = [guide.allowed()], list(draft)
    tokens: list[int] = []
    guide = guide.copied() if most > 0 else guide
    while len(tokens) < most and not guide.complete:
        forced = guide.forced[0] if guide.forced else None
        guess = rest.pop(0) if rest else None
        if forced is None and (guess is None or not guide.allows(guess)):
            break
        if forced is not None and forced != guess:
            rest = []  # was not meant to stand behind it
        token = guess if forced is None else forced
        assert token is not None
        if not guide.take(token):
            break
        tokens.append(token)
        masks.append(guide.allowed())
    return Foreseen(tokens, np.stack(masks))


def follow(guide: Guide | None, chosen: Sequence[int], room: int) -> Followed:
    """Take what was chosen, and what must follow. Where a choice leaves no room for an ending, the shortest is taken.

    room: how many tokens there may be. The guide itself stays where it is; without one, all that is chosen is final.
    """
    if guide is None:
        return Followed(list(chosen), len(chosen), None, None)
    tokens: list[int] = []
    count = 0
    for token in chosen:
        following = guide.copied()
        if not (following.take(token) and following.fits(room - len(tokens) - 1) and following.goes_on):
            return Followed([*tokens, *(guide.ending() or [])], count, guide, "length")
        guide, count = following, count + 1
        tokens.append(token)
        if guide.complete:
            return Followed(tokens, count, guide, "stop")
    while guide.forced:
        token = guide.forced[0]
        guide.take(token)
        tokens.append(token)
    return Followed(tokens, count, guide, "stop" if guide.complete else None)
