"""The plans of drafts: where one comes from, how wide it is, how much of it is verified, and when none is worth it.

A draft costs a pass or two and gives as many tokens as the encoder agrees with, and one more. How many that will be is
estimated from the drafts before; what a pass costs is counted, or told by whoever knows the device. Knows nothing of
models or text: drafts cannot change what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Cost = Callable[[int], float]  # positions of a pass -> its time, in passes of one position
Source = Literal["none", "denoised", "found"]

WIDTHS = (8, 16, 32)  # of canvases: few, since each is a shape of its own
NGRAM = 3  # tokens that must have stood before for what followed them to be proposed again
MEMORY = 8.0  # tokens' worth of evidence that an estimate rests on at most
FORGETTING = 0.5  # of it, at every draft
FIRST_REST, LONGEST_REST = 16, 256  # tokens without drafts after they did not pay, doubled each time in a row
LOST_SHARE = 20  # a rest lasts at least so many times as long as what the last try lost


def counted(positions: int) -> float:
    """The cost where passes are counted, and nothing is known of the device."""
    return 1.0


@dataclass
class Agreement:
    """How likely the encoder is to agree with one more token of a draft, by what it did before."""

    agreed: float = 3.8  # hopeful: much of what people ask for is determined, and a try tells
    refused: float = 0.2

    def expected(self, count: int) -> float:
        """How many tokens of a draft of `count` will be agreed with."""
        share = self.agreed / (self.agreed + self.refused)
        return float(count) if share == 1 else share * (1 - share**count) / (1 - share)

    def record(self, proposed: int, agreed: int) -> None:
        """Take in what became of a draft."""
        self.agreed = FORGETTING * self.agreed + agreed
        self.refused = FORGETTING * self.refused + (agreed < proposed)
        most = max(1.0, (self.agreed + self.refused) / MEMORY)
        self.agreed, self.refused = self.agreed / most, self.refused / most


class Plan(NamedTuple):
    """The draft of a round."""

    source: Source
    width: int  # positions of its canvas, or 1 + the tokens found


@dataclass
class Drafting:
    """The plans of a row, round after round."""

    width: int | None  # of every draft; None: what pays
    steps: int  # denoising steps of a draft
    most: int  # positions of a canvas
    cost: Cost = counted
    by_source: dict[Source, Agreement] = field(default_factory=lambda: {"denoised": Agreement(), "found": Agreement()})
    rest: int = 0  # tokens to come without a draft
    last_rest: int = 0

    def plan(self, found: int, room: int) -> Plan:
        """The next draft. found: how many tokens a look at the text proposes. room: positions left for a canvas."""
        if self.width is not None:
            return Plan("denoised", self.width) if 1 < self.width <= room else Plan("none", 1)
        if self.rest > 0:
            return Plan("none", 1)
        widths = [width for width in WIDTHS if width <= min(self.most, room)]
        plans = [Plan("found", 1 + found)] * (found > 0) + [Plan("denoised", width) for width in widths]
        best = max(plans, key=self._rate, default=Plan("none", 1))
        if not plans or self._rate(best) > self._rate(Plan("none", 1)):
            return best
        self._begin_rest(0.0)
        return Plan("none", 1)

    def verified(self, probabilities: Sequence[float]) -> int:
        """How much of a draft to verify, from the probability that the draft itself gives each of its tokens."""
        best = gain = reached = 0.0
        count, likely = 0, 1.0
        for index, probability in enumerate(probabilities, start=1):
            likely *= probability
            reached += likely
            gain = reached - (self.cost(1 + index) - self.cost(1)) / self.cost(1)
            if gain >= best:
                best, count = gain, index
        return count

    def record(self, plan: Plan, proposed: int, agreed: int) -> None:
        """Take in what became of the last round: 1 + `agreed` tokens."""
        if plan.source == "none":
            self.rest -= 1
            return
        self.by_source[plan.source].record(proposed, agreed)
        lost = self._passes(plan) - (1 + agreed)
        if lost <= 0:
            self.last_rest = 0
        elif self._rate(plan) <= self._rate(Plan("none", 1)):
            self._begin_rest(lost)

    def _begin_rest(self, lost: float) -> None:
        """Write plainly for a while, then try anew with some hope."""
        self.last_rest = min(max(FIRST_REST, 2 * self.last_rest, round(LOST_SHARE * lost)), LONGEST_REST)
        self.rest = self.last_rest
        self.by_source = {"denoised": Agreement(), "found": Agreement()}

    def _rate(self, plan: Plan) -> float:
        """Tokens that a plan will give for the time of a pass of one position."""
        expected = 0.0 if plan.source == "none" else self.by_source[plan.source].expected(plan.width - 1)
        return (1 + expected) / self._passes(plan)

    def _passes(self, plan: Plan) -> float:
        """What a plan costs, in passes of one position."""
        steps = self.steps if plan.source == "denoised" else 0
        return (steps + 1) * self.cost(plan.width) / self.cost(1)


class FoundText:
    """What followed the same few tokens the last time that they stood in a text: drafts without a pass."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._last: dict[tuple[int, ...], int] = {}  # some tokens -> where the text went on, the last time but now

    def extend(self, tokens: Sequence[int]) -> None:
        """Read on."""
        for token in tokens:
            if len(self._tokens) >= NGRAM:
                self._last[tuple(self._tokens[-NGRAM:])] = len(self._tokens)
            self._tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """At most so many tokens that may follow; none where the last few never stood there before."""
        start = self._last.get(tuple(self._tokens[-NGRAM:]))
        return [] if start is None else self._tokens[start : start + max(most, 0)]
