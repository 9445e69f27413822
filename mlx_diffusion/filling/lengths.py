"""The length of a gap, which nobody has said: how many positions are open between what is known on either side.

A wrong length cannot be told by its entropy: a model is just as sure of a word too many. Two things tell it. The model
is asked to write the whole text, so a canvas on which only what comes before the gap is known shows, after a step or
two, where the text behind the gap begins. And where that leaves a choice, a few lengths are denoised side by side, and
the encoder's causal probability of the whole text, which needs no correction for its length, says which is best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mlx_diffusion.engine.trial import Trial
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.places import Place, Surroundings, places

DRAFT_STEPS = 2  # of the canvas that shows where the text goes on
TRIAL_STEPS = 3  # of the lengths that are tried
BEST, SPREAD = 4, 4  # lengths that are tried: the best of the draft's, and some between the shortest and the longest


def agreements(
    canvases: Canvases, prompt: Sequence[int], around: Surroundings, counts: Sequence[int], trials: list[Trial]
) -> np.ndarray:
    """For each length, the share of what is known behind the gap that a draft has at its place: float [counts]."""
    place = places(around, counts, canvases.longest, canvases.settings.canvas_length)[int(np.argmax(counts))]
    known = [*place.pinned[: place.start], *[-1] * (len(place.pinned) - place.start)]
    trial = Trial(canvases.model, [canvases.request(prompt, replace(place, pinned=tuple(known)))])
    trials.append(trial)
    for _ in range(min(DRAFT_STEPS, canvases.settings.max_denoising_steps)):
        (survey,) = trial.step()
    drafted = np.array(survey.argmax)[place.start :]
    behind = np.array([*around.after, *([] if around.stop is None else [around.stop])])
    ended = np.flatnonzero(np.isin(drafted, canvases.settings.eos_token_id))
    most = ended[0] if len(ended) else len(drafted)  # open positions before the draft ends
    shares = []
    for count in counts:
        shown = behind[: len(drafted) - count]
        alike = drafted[count : count + len(shown)] == shown
        shares.append(alike.mean() if len(shown) and count <= most else 0.0)
    return np.array(shares)


def best_place(
    canvases: Canvases,
    prompt: Sequence[int],
    around: Surroundings,
    counts: Sequence[int],
    fits: Callable[[Sequence[int]], bool],
    trials: list[Trial],
) -> Place:
    """The canvas with the best of these lengths.

    fits: whether such tokens may stand in the open place. trials: what is tried for it is added, as a cost.
    """
    made = places(around, counts, canvases.longest, canvases.settings.canvas_length)
    if len(made) == 1:
        return made[0]
    shares = agreements(canvases, prompt, around, counts, trials)
    ranked = np.argsort(-shares, kind="stable").tolist()
    if shares[ranked[0]] == 1 and shares[ranked[1]] < 1:
        return made[ranked[0]]
    spread = np.unique(np.geomspace(1, len(made), SPREAD).round().astype(int) - 1).tolist()
    tried = [made[index] for index in dict.fromkeys([*ranked[:BEST], *spread])]
    trial = Trial(canvases.model, [canvases.request(prompt, place) for place in tried])
    trials.append(trial)
    for _ in range(min(TRIAL_STEPS, canvases.settings.max_denoising_steps)):
        surveys = trial.step()
    rows = [np.array(survey.argmax).tolist() for survey in surveys]
    likelihoods = trial.likelihoods(rows)
    scores = [
        (fits(row[place.open]), float(likelihood[: place.start + place.count + _behind(around, place)].sum()))
        for row, place, likelihood in zip(rows, tried, likelihoods, strict=True)
    ]
    return tried[scores.index(max(scores))]


def _behind(around: Surroundings, place: Place) -> int:
    """How many positions behind the open place belong to the text."""
    room = len(place.pinned) - place.start - place.count
    return min(room, len(around.after) + (around.stop is not None))
