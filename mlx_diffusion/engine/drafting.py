"""The plans of drafts: where one comes from, how wide it is, how much of it is verified, and when none is worth it.

A draft costs time and gives as many tokens as the encoder agrees with, and one more. How many that will be is estimated
from the drafts before; what a pass costs is counted, or told by whoever knows the device. Drafts live on credit, and
none is made that could lose more than there is: whatever becomes of them, all together have never lost more than the
first credit and a share of the tokens so far. Knows nothing of models or text: drafts cannot change what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, NamedTuple, Protocol

import numpy as np

Source = Literal["none", "beside", "denoised", "found 1", "found 2", "found 3"]

WIDTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # of drafts: few, since each is a shape of its own
FOUND: dict[int, Source] = {1: "found 1", 2: "found 2", 3: "found 3"}  # by how many tokens before stood there, too
HOPE = 0.85  # before anything is known: the share of tokens that agree, of those behind agreeing ones
KEPT = 0.95  # of the evidence, at every draft
FIRST_CREDIT, MOST_CREDIT = 1.5, 16.0  # passes of one position
CREDIT_A_TOKEN = 0.05  # of every text, whatever drafts gain or lose


class Cost(Protocol):
    """How long passes take."""

    def __call__(self, positions: int, unread: int = 0) -> float:
        """The time of a pass, in passes of one position; nobody asks what follows `unread` of its positions."""
        ...


def counted(positions: int, unread: int = 0) -> float:
    """The cost where passes are counted, and nothing is known of the device."""
    return 1.0


class Plan(NamedTuple):
    """The draft of a round."""

    source: Source
    width: int  # positions of its canvas, or 1 + the tokens found
    cost: float = 0.0  # of the draft itself, in passes of one position
    most: int = 0  # tokens of it that may be verified


PLAIN = Plan("none", 1)


class Agreement:
    """What became of drafts of one source, place by place."""

    def __init__(self) -> None:
        self._tried = np.zeros(WIDTHS[-1])  # drafts that were right before a place
        self._right = np.zeros(WIDTHS[-1])  # and there
        self._agreed = self._verified = 1.0  # tokens

    def record(self, width: int, agreed: int, verified: int) -> None:
        """Take in what became of a draft: of `verified` tokens, so many were right."""
        for counts in (self._tried, self._right):
            counts *= KEPT
        self._right[:agreed] += 1
        self._tried[: min(agreed + 1, width - 1)] += 1
        self._agreed, self._verified = KEPT * self._agreed + agreed, KEPT * self._verified + verified

    def expected(self, width: int) -> tuple[float, int]:
        """How many tokens of a draft will be right, and how many are to be verified for it."""
        mean = (self._right.sum() + HOPE) / (self._tried.sum() + 1)
        shares = (self._right + mean / 2) / (self._tried + 1 / 2)  # the mean counts as half a draft
        right = float(np.cumprod(shares[: width - 1]).sum())
        return right, min(width - 1, ceil(right * self._verified / max(self._agreed, 0.1)))


@dataclass
class DraftMemory:
    """What became of drafts so far, and how much those to come may lose.

    Texts of one kind may share one, as `drafts=` of `generate`: the next one begins with what the last one taught.
    """

    cost: Cost = counted
    agreement: dict[Source, Agreement] = field(default_factory=dict)
    credit: float = FIRST_CREDIT

    def of(self, source: Source) -> Agreement:
        """What became of drafts of a source."""
        return self.agreement.setdefault(source, Agreement())

    def earn(self, passes: float) -> None:
        """Add to the credit, or take from it."""
        self.credit = min(MOST_CREDIT, self.credit + passes)


@dataclass
class Drafting:
    """The plans of a row, round after round."""

    width: int | None  # of every draft; None: what pays
    steps: int  # denoising steps of a draft
    most: int  # positions of a canvas
    memory: DraftMemory = field(default_factory=DraftMemory)

    def beside(self, part: int, room: int) -> Plan:
        """A draft that takes its step in the pass that encodes the last `part` tokens of a prompt.

        There is one such pass, so what counts is the time that the draft saves. room: positions left for a canvas.
        """
        cost = self.memory.cost
        unread = part - 1
        plans = [Plan("beside", width, cost(part + width, unread) - cost(part, unread)) for width in self._widths(room)]
        return self._chosen(plans, lambda tokens, passes: 1 + tokens - passes) if self.steps == 1 else PLAIN

    def plan(self, found: Sequence[int], room: int) -> Plan:
        """The next draft. found: how many tokens a look at the text proposes, for 1, 2, … tokens before that agree.

        Rounds follow each other, so what counts is the tokens that one gives for its time.
        """
        plans = [Plan("denoised", width, self.steps * self.memory.cost(width)) for width in self._widths(room)]
        if self.width is None:
            plans += [
                Plan(FOUND[matched], width)
                for matched, count in enumerate(found, start=1)
                for width in WIDTHS
                if width <= 1 + count
            ]
        return self._chosen(plans, lambda tokens, passes: tokens / passes)

    def verified(self, plan: Plan, probabilities: Sequence[float]) -> int:
        """How much of a draft to verify, from the probability that the draft itself gives each of its tokens."""
        best = gain = reached = 0.0
        count, likely = 0, 1.0
        for index, probability in enumerate(probabilities[: plan.most], start=1):
            likely *= probability
            reached += likely
            gain = reached - (self.memory.cost(1 + index) - 1)
            if gain >= best:
                best, count = gain, index
        return count

    def record(self, plan: Plan, agreed: int, verified: int) -> None:
        """Take in what became of the last round: 1 + `agreed` tokens, for a pass over 1 + `verified` positions."""
        if self.width is not None:
            return
        gained = 1 + agreed - plan.cost - self.memory.cost(1 + verified)
        self.memory.earn(gained + CREDIT_A_TOKEN * (1 + agreed))
        if plan.source != "none":
            self.memory.of(plan.source).record(1 + plan.most, agreed, verified)

    def record_useless(self, plan: Plan) -> None:
        """Take in that a draft did not foresee what the prompt's own pass chose, so that none of it is verified."""
        if self.width is None:
            self.memory.earn(-plan.cost)
            self.memory.of(plan.source).record(1 + plan.most, 0, 0)

    def _widths(self, room: int) -> list[int]:
        """The widths that canvases may have."""
        wanted = WIDTHS if self.width is None else (self.width,)
        return [width for width in wanted if 1 < width <= min(self.most, room)]

    def _chosen(self, plans: Sequence[Plan], worth: Callable[[float, float], float]) -> Plan:
        """The plan of most worth, which depends on the tokens that a round gives and on the passes that it costs.

        If no draft is worth it and the credit is full, one is tried as if nothing were known: texts change.
        """
        if self.width is not None:
            return plans[0]._replace(most=plans[0].width - 1) if plans else PLAIN
        memory = self.memory
        plans = [bounded for plan in plans if (bounded := plan._replace(most=self._bearable(plan))).most]
        boldly: list[Callable[[Source], Agreement]] = [memory.of, lambda source: Agreement()]
        for known in boldly if memory.credit == MOST_CREDIT else boldly[:1]:
            worths = [worth(*self._outlook(plan, known(plan.source))) for plan in plans]
            if max(worths, default=0.0) > worth(1.0, 1.0):
                return plans[worths.index(max(worths))]
        return PLAIN

    def _bearable(self, plan: Plan) -> int:
        """How many tokens of a draft may be verified: as many as the credit bears if none of them is right."""
        cost, left = self.memory.cost, self.memory.credit - plan.cost
        return next((count for count in range(plan.width - 1, 0, -1) if cost(1 + count) - 1 <= left), 0)

    def _outlook(self, plan: Plan, known: Agreement) -> tuple[float, float]:
        """The tokens that a round is expected to give, and the passes of one position that it costs."""
        right, verified = known.expected(1 + plan.most)
        return 1 + right, plan.cost + self.memory.cost(1 + verified)


class FoundText:
    """What followed the same few tokens the last time that they stood in a text: drafts without a pass."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}  # some tokens -> where the text went on, the last time but now

    def extend(self, tokens: Sequence[int]) -> None:
        """Read on."""
        for token in tokens:
            for count in range(1, min(len(FOUND), len(self._tokens)) + 1):
                self._last[tuple(self._tokens[-count:])] = len(self._tokens)
            self._tokens.append(token)

    def guess(self, matched: int, most: int) -> list[int]:
        """At most so many tokens that may follow; none where the last `matched` ones never stood there before."""
        start = self._last.get(tuple(self._tokens[-matched:]))
        return [] if start is None else self._tokens[start : start + max(most, 0)]
