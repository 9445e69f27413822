"""The length of a gap, which nobody has said: how many positions are open between what is known on either side.

A wrong length cannot be told by its entropy: a model is just as sure of a word too many. Two things tell it. The model
is asked to write the whole text, so a canvas on which only what comes before the gap is known shows, after a step or
two, where the text behind the gap begins. And where that leaves a choice, a few lengths are denoised side by side, and
the encoder's causal probability of the whole text, which needs no correction for its length, says which is best. Many
gaps are looked at side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_diffusion.engine.trial import Trial
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.places import Place, Surroundings, places

DRAFT_STEPS = 2  # of the canvas that shows where the text goes on
TRIAL_STEPS = 3  # of the lengths that are tried
BEST, SPREAD = 4, 4  # lengths that are tried: the best of the draft's, and some between the shortest and the longest


@dataclass(frozen=True)
class OpenGap:
    """A gap whose number of open positions is sought."""

    prompt: tuple[int, ...]
    around: Surroundings
    counts: range  # the numbers that it may have
    fits: Callable[[Sequence[int]], bool]  # whether such tokens may stand in the open place

    @property
    def behind(self) -> list[int]:
        """What is known behind the gap, the end of the text included."""
        return [*self.around.after, *([] if self.around.stop is None else [self.around.stop])]

    def places(self, canvases: Canvases) -> list[Place]:
        """A canvas for each of the counts."""
        return places(self.around, self.counts, canvases.longest, canvases.settings.canvas_length)


def agreements(canvases: Canvases, gaps: Sequence[OpenGap], trials: list[Trial]) -> list[np.ndarray]:
    """For each count of each gap, the share of what is known behind it that a draft has at its place: float [counts].

    trials: what is tried for it is added, as a cost.
    """
    drafts = []
    for gap in gaps:
        place = gap.places(canvases)[-1]
        known = [*place.pinned[: place.start], *[-1] * (len(place.pinned) - place.start)]
        drafts.append(replace(place, pinned=tuple(known)))
    trial = Trial(canvases.model, [canvases.request(gap.prompt, own) for gap, own in zip(gaps, drafts, strict=True)])
    trials.append(trial)
    for _ in range(min(DRAFT_STEPS, canvases.settings.max_denoising_steps)):
        surveys = trial.step()
    stops = canvases.settings.eos_token_id
    return [
        shares_of(gap.behind, np.array(survey.argmax)[place.start :], gap.counts, stops)
        for gap, place, survey in zip(gaps, drafts, surveys, strict=True)
    ]


def shares_of(behind: Sequence[int], drafted: np.ndarray, counts: Sequence[int], stops: Sequence[int]) -> np.ndarray:
    """For each count the share of `behind` that a draft has at this place, up to its end, float [counts].

    drafted: int32 [N]. It is 0 where the draft ends before that place, with one of the stop tokens.
    """
    ended = np.flatnonzero(np.isin(drafted, stops))
    most = ended[0] if len(ended) else len(drafted)  # open positions before the draft ends
    shares = []
    for count in counts:
        shown = np.array(behind[: len(drafted) - count])
        alike = drafted[count : count + len(shown)] == shown
        shares.append(alike.mean() if len(shown) and count <= most else 0.0)
    return np.array(shares)


def best_places(canvases: Canvases, gaps: Sequence[OpenGap], trials: list[Trial]) -> list[Place]:
    """The canvas of each gap with the best of its counts; trials: what is tried for it is added, as a cost."""
    made = [gap.places(canvases) for gap in gaps]
    best, unsettled = [own[0] for own in made], [n for n, own in enumerate(made) if len(own) > 1]
    if not unsettled:
        return best
    ranks = dict[int, list[int]]()
    for n, shares in zip(unsettled, agreements(canvases, [gaps[n] for n in unsettled], trials), strict=True):
        ranked = np.argsort(-shares, kind="stable").tolist()
        if shares[ranked[0]] == 1 and shares[ranked[1]] < 1:
            best[n] = made[n][ranked[0]]
        else:
            ranks[n] = ranked
    tried = {n: _tried(made[n], ranked) for n, ranked in ranks.items()}
    if tried:
        scores = _scores(canvases, [(gaps[n], place) for n, own in tried.items() for place in own], trials)
        for n, own in tried.items():
            first, scores = scores[: len(own)], scores[len(own) :]
            best[n] = own[first.index(max(first))]
    return best


def _tried(made: Sequence[Place], ranked: Sequence[int]) -> list[Place]:
    """The best of the places, and some between the shortest and the longest."""
    spread = np.unique(np.geomspace(1, len(made), SPREAD).round().astype(int) - 1).tolist()
    return [made[index] for index in dict.fromkeys([*ranked[:BEST], *spread])]


def _scores(
    canvases: Canvases, tried: Sequence[tuple[OpenGap, Place]], trials: list[Trial]
) -> list[tuple[bool, float]]:
    """Of each place whether what a few steps write there fits, and the encoder's log-probability of the text."""
    trial = Trial(canvases.model, [canvases.request(gap.prompt, place) for gap, place in tried])
    trials.append(trial)
    for _ in range(min(TRIAL_STEPS, canvases.settings.max_denoising_steps)):
        surveys = trial.step()
    rows = [np.array(survey.argmax).tolist() for survey in surveys]
    return [
        (gap.fits(row[place.open]), float(likelihood[: place.start + place.count + _behind(gap.around, place)].sum()))
        for row, (gap, place), likelihood in zip(rows, tried, trial.likelihoods(rows), strict=True)
    ]


def _behind(around: Surroundings, place: Place) -> int:
    """How many positions behind the open place belong to the text."""
    room = len(place.pinned) - place.start - place.count
    return min(room, len(around.after) + (around.stop is not None))
