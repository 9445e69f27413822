"""The probabilities of whole candidates, of which a text holds one: by looking at a canvas, or by the encoder.

A canvas says how likely each token is at each position. Candidates are told apart where their tokens first differ, then
within those that still agree, so that it is whole candidates that compete, and a candidate is not worse for being long.
The encoder says how likely each whole candidate is as text that follows. Knows nothing of questions or forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from mlx_diffusion.display import count_of
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.trial import Trial
from mlx_diffusion.errors import OptionError
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.places import NEAR, Place, lengths
from mlx_diffusion.tokenizer import Tokenizer


@dataclass(frozen=True)
class Candidates:
    """Texts of which one stands behind a prompt, as tokens, no two of them equal."""

    prompt: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]

    @property
    def shared(self) -> int:
        """How many tokens all texts begin with."""
        return next((n for n, tokens in enumerate(zip(*self.texts, strict=False)) if len(set(tokens)) > 1), self.least)

    @property
    def least(self) -> int:
        return min(map(len, self.texts))

    @property
    def most(self) -> int:
        return max(map(len, self.texts))


def check_different(tokenizer: Tokenizer, choices: Sequence[str], where: str) -> None:
    """Raise `OptionError` for choices that are one and the same to the model, as its tokenizer has them."""
    seen = dict[tuple[int, ...], str]()
    for choice in choices:
        first = seen.setdefault(tuple(tokenizer.encode_text(choice)), choice)
        if first != choice:
            raise OptionError(
                f"{where} has the choices {first!r} and {choice!r}, which are the same tokens; leave one of them out"
            )


def by_canvas(
    canvases: Canvases, choices: Sequence[Candidates], passes: int, samples: int, trials: list[Trial] | None = None
) -> list[np.ndarray]:
    """The probability of each text of each choice, float [texts], from `passes` passes over one short canvas a sample.

    A sample is a canvas with noise of its own; probabilities are the mean over them. Nothing is written. trials: what
    is looked at is added, for its cost.
    """
    rows, spans = [], []
    for choice in choices:
        place = _place(canvases, choice)
        request = canvases.request(choice.prompt, place)
        for sample in range(samples):
            draws = SeededDraws.of(canvases.settings.seed + sample, canvases.model.config.vocab_size)
            rows.append(replace(request, draws=draws))
            spans.append(range(place.start, place.start + place.count))
    trial = Trial(canvases.model, rows)
    if trials is not None:
        trials.append(trial)
    for _ in range(passes - 1):
        trial.step()
    said = trial.logprobs(spans)
    found = []
    for choice in choices:
        tails = [text[choice.shared :] for text in choice.texts]
        found.append(np.mean([told_apart(tails, logprobs) for logprobs in islice(said, samples)], axis=0))
    return found


def by_encoder(
    canvases: Canvases, choices: Sequence[Candidates], trials: list[Trial] | None = None
) -> list[np.ndarray]:
    """The same from the encoder's causal probability of each whole text, in one pass over all of them."""
    place = Place((), (-1,) * lengths(canvases.longest, None)[0], 0, 0)
    rows = [canvases.request(choice.prompt, place) for choice in choices for _ in choice.texts]
    trial = Trial(canvases.model, rows)
    if trials is not None:
        trials.append(trial)
    said = trial.likelihoods([text for choice in choices for text in choice.texts])
    found, start = [], 0
    for choice in choices:
        scores = np.array([own.sum() for own in said[start : start + len(choice.texts)]], np.float64)
        weights = np.exp(scores - scores.max())
        found.append(weights / weights.sum())
        start += len(choice.texts)
    return found


def told_apart(tails: Sequence[Sequence[int]], logprobs: np.ndarray) -> np.ndarray:
    """The probability of each of different token sequences, float [tails], of what a canvas says: float32 [F, V].

    Those that differ at a position share its probability by their tokens; those that agree share what they got further
    on. A sequence that has ended is told from those that go on by what is left of the probability there.
    """
    shares = np.ones(len(tails))

    def share(among: list[int], position: int) -> None:
        groups: dict[int | None, list[int]] = {}
        for index in among:
            tail = tails[index]
            groups.setdefault(tail[position] if position < len(tail) else None, []).append(index)
        if len(groups) > 1:
            said = np.exp(logprobs[position].astype(np.float64))
            weights: dict[int | None, float] = {token: said[token] for token in groups if token is not None}
            if None in groups:
                weights[None] = max(1 - sum(weights.values()), 0.0)
            total = sum(weights.values()) or 1.0
            for token, group in groups.items():
                shares[group] *= weights[token] / total
        for token, group in groups.items():
            if token is not None and len(group) > 1:
                share(group, position + 1)

    share(list(range(len(tails))), 0)
    total = shares.sum()
    return shares / total if total else np.full(len(tails), 1 / len(tails))


def _place(canvases: Canvases, choice: Candidates) -> Place:
    """The canvas on which the texts differ: what they share is pinned, and what follows if they are of one length."""
    shared, most = choice.shared, choice.most
    first = choice.texts[0]
    behind = 0
    if choice.least == most:
        ends = zip(*(reversed(text) for text in choice.texts), strict=True)
        behind = next((n for n, tokens in enumerate(ends) if len(set(tokens)) > 1), 0)
    count = most - shared - behind
    sizes = lengths(canvases.longest, canvases.settings.canvas_length)
    shown = min(shared, NEAR, max(0, sizes[-1] - count))
    if count + shown > sizes[-1]:
        raise OptionError(
            f"the choices differ over {count_of(count, 'token')}, and a canvas has {count_of(sizes[-1], 'position')}; "
            "shorten them"
        )
    length = next(size for size in sizes if size >= min(shown + count + min(behind + 1, NEAR), sizes[-1]))
    known = [*first[shared - shown : shared], *[-1] * count, *first[most - behind :]]
    known += [-1 if canvases.stop is None else canvases.stop] * (length - len(known))
    return Place(tuple(first[: shared - shown]), tuple(known[:length]), shown, count)
