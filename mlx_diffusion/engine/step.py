"""One denoising step of any number of rows: pure, lazy, and the only place where a step is taken.

Each row has its own canvas, age, length, rules and randomness; the network runs over all of them at once, and no row's
result depends on its company. Knows nothing of text, blocks, prompts or when a row began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.levers import locked, settled_length, text_is_sure
from mlx_diffusion.engine.rules import Acceptance, Canvas, Policy, Proposal, Rules, agreement, stable_and_confident
from mlx_diffusion.network.cache import Prefix
from mlx_diffusion.network.head import Survey
from mlx_diffusion.network.rows import Seen, View


class Network(Protocol):
    """What a step needs of a model."""

    def survey(
        self, views: Sequence[View], temperatures: Sequence[mx.array], gumbels: Sequence[mx.array]
    ) -> list[Seen]:
        """What the logits say of the forwarded positions of each row."""
        ...

    def run(self, function: Callable[..., Any], module: None, *arguments: Any) -> Any:
        """A pure function of arrays, traced where the model is."""
        ...


class EncodingNetwork(Network, Protocol):
    """A network that takes canvases through its layers beside the tokens that it encodes."""

    def survey_hidden(
        self, hidden: mx.array, views: Sequence[View], temperatures: Sequence[mx.array], gumbels: Sequence[mx.array]
    ) -> list[Seen]:
        """What the logits say of the canvases, from what they came out of the layers with, [N, D]."""
        ...


class Turn(NamedTuple):
    """What one row brings to a step."""

    canvas: Canvas
    prefix: Prefix
    temperature: mx.array  # float32 [1]
    gumbel: mx.array  # a key, uint32 [2], or noise, float32 [L, V]
    fresh: mx.array  # int32 [L], in place of the tokens that are not kept
    rules: Rules
    policy: Policy
    positions: mx.array | None = None  # int32 [A], those that are forwarded; None: all
    free: mx.array | None = None  # int32 [F], those that are not pinned, one of the forwarded at least; None: all

    def view(self) -> View:
        """What the network is to look at."""
        canvas, own = self.canvas, self.positions
        tokens, soft = canvas.tokens, canvas.survey.soft
        if own is not None:
            tokens, soft = tokens[own], soft[own]
        kept = () if own is None else canvas.kept
        return View(tokens, soft, self.prefix, own, kept, self.asked)

    @property
    def asked(self) -> mx.array | None:
        """The places of free positions among the forwarded, int32 [F]; None: all."""
        if self.free is None or self.positions is None:
            return self.free
        return mx.array(np.flatnonzero(np.isin(np.array(self.positions), np.array(self.free))), dtype=mx.int32)

    @property
    def surveyed(self) -> mx.array | None:
        """The positions of the canvas whose logits are looked at, int32 [F]; None: all."""
        asked = self.asked
        return asked if self.positions is None else self.positions if asked is None else self.positions[asked]


class Stepped(NamedTuple):
    """What one row takes from a step."""

    canvas: Canvas
    accepted: mx.array  # bool [L], the positions whose sample was kept, none of them pinned
    finished: mx.array  # bool [], by the rules; a canvas that may take no further step is finished as well
    needed: mx.array | None  # int32 [], how many of its positions the canvas still needs; None: all
    hidden: mx.array | None = None  # [F, D], after the final norm, of the surveyed positions


def first_canvas(tokens: mx.array, soft: mx.array, pinned: mx.array | None = None, locks: bool = False) -> Canvas:
    """What a canvas starts from: int32 [L] tokens drawn at random, those pinned in place; soft is zeros [L, D].

    What is said of a pinned position is certain, and stays so; a signal it never has: its token says all, and answers
    with the token's embedding as a signal were worse and took twice the steps. locks: positions may come to rest.
    """
    known = mx.full(tokens.shape, -1, dtype=mx.int32) if pinned is None else pinned
    nothing, is_known = mx.zeros(tokens.shape, dtype=mx.float32), known >= 0
    certain = is_known.astype(mx.float32)
    survey = Survey(known, known, certain, nothing, soft, certain)
    unlocked = mx.zeros(tokens.shape, dtype=mx.bool_) if locks else None
    return Canvas(mx.where(is_known, known, tokens), survey, mx.array(0), (), pinned, unlocked)


def step(network: Network, turns: Sequence[Turn]) -> list[Stepped]:
    """Let every row take its next denoising step. Nothing is evaluated."""
    return _decided(network, turns, network.survey(*_asked(turns)))


def step_beside(network: EncodingNetwork, turns: Sequence[Turn], hidden: mx.array) -> list[Stepped]:
    """The same of canvases that have been through the layers beside other tokens, and gave hidden [N, D]."""
    return _decided(network, turns, network.survey_hidden(hidden, *_asked(turns)))


def _asked(turns: Sequence[Turn]) -> tuple[list[View], list[mx.array], list[mx.array]]:
    return [turn.view() for turn in turns], [turn.temperature for turn in turns], [turn.gumbel for turn in turns]


def _decided(network: Network, turns: Sequence[Turn], found: Sequence[Seen]) -> list[Stepped]:
    """What the rules make of what the network said."""
    stepped = []
    for turn, seen in zip(turns, found, strict=True):
        anew = turn.surveyed
        survey = seen.survey if anew is None else _merged(turn.canvas.survey, seen.survey, anew)
        canvas = turn.canvas._replace(kept=())
        decide = Decide(turn.policy.acceptance, turn.policy.proposal)
        tokens, streak, resting, accepted, finished, needed = network.run(
            decide, None, survey, canvas, turn.rules, turn.fresh, turn.positions
        )
        after = Canvas(tokens, survey, streak, seen.kept, canvas.pinned, resting)
        stepped.append(Stepped(after, accepted, finished, needed, seen.hidden))
    return stepped


@dataclass(frozen=True)
class Decide:
    """The rules of a policy as one pure function of arrays."""

    acceptance: Acceptance
    proposal: Proposal

    def __call__(
        self,
        figures: tuple[mx.array, ...],
        before: tuple[Any, ...],
        rules: tuple[mx.array, ...],
        fresh: mx.array,
        positions: mx.array | None,
    ) -> tuple[mx.array, mx.array, mx.array | None, mx.array, mx.array, mx.array | None]:
        """The next tokens, streak and locks; what was accepted, whether the canvas is finished, and what it needs.

        A trace hands named tuples on as plain ones, so that they are named anew here.
        """
        survey, numbers = Survey(*figures), Rules(*rules)
        canvas = Canvas(before[0], Survey(*before[1]), *before[2:])
        accepted = self.acceptance(survey, canvas, numbers)
        tokens = mx.where(accepted, getattr(survey, self.proposal), fresh)
        resting = None
        if canvas.locked is not None and numbers.lock is not None:
            resting = locked(survey, canvas, numbers.lock)
            tokens = mx.where(resting, survey.argmax, tokens)
        free, pinned = canvas.free, canvas.pinned
        if free is not None and pinned is not None:
            accepted, tokens = accepted & free, mx.where(free, tokens, pinned)
        if positions is not None:  # the others rest
            forwarded = (mx.arange(tokens.shape[0])[:, None] == positions).any(axis=-1)
            tokens = mx.where(forwarded, tokens, canvas.tokens)
        streak = agreement(survey.argmax, canvas.survey.argmax, canvas.streak)
        finished = stable_and_confident(streak, survey, numbers, free)
        if numbers.early_end is not None:
            finished = finished | text_is_sure(survey, canvas, numbers, numbers.early_end)
        needed = None if numbers.crop is None else settled_length(survey, canvas, numbers, numbers.crop)
        return tokens, streak, resting, accepted, finished, needed


def _merged(old: Survey, new: Survey, positions: mx.array) -> Survey:
    """The survey of all positions, those at int32 [A] having been looked at anew."""
    merged = []
    for before, now in zip(old, new, strict=True):
        index = positions if now.ndim == 1 else mx.broadcast_to(positions[:, None], now.shape)
        merged.append(mx.put_along_axis(before, index, now.astype(before.dtype), axis=0))
    return Survey(*merged)
