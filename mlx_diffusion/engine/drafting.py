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

WIDTHS = (4, 8, 16, 32)  # of canvases: few, since each is a shape of its own
NGRAM = 3  # tokens that must have stood before for what followed them to be proposed again
MEMORY = 24.0  # tokens' worth of evidence that an estimate rests on at most
KEPT_SHARE = 0.8  # of it, at every draft
FIRST_REST, LONGEST_REST = 16, 256  # tokens without drafts after they did not pay, doubled each time in a row
LOST_SHARE = 20  # a rest lasts at least so many times as long as what the last try lost


def counted(positions: int) -> float:
    """The cost where passes are counted, and nothing is known of the device."""
    return 1.0


@dataclass
class Agreement:
    """How likely one more token of a draft is to be right, by what became of those before."""

    right: float = 1.9  # hopeful: much of what people ask for is determined, and a try tells
    ended: float = 0.1

    def expected(self, count: int) -> float:
        """How many tokens a draft of `count` will give."""
        share = self.right / (self.right + self.ended)
        return float(count) if share == 1 else share * (1 - share**count) / (1 - share)

    def record(self, possible: int, right: int) -> None:
        """Take in what became of a draft, of which so many tokens could have been right."""
        self.right = KEPT_SHARE * self.right + right
        self.ended = KEPT_SHARE * self.ended + (right < possible)
        most = max(1.0, (self.right + self.ended) / MEMORY)
        self.right, self.ended = self.right / most, self.ended / most


class Plan(NamedTuple):
    """The draft of a round."""

    source: Source
    width: int  # positions of its canvas, or 1 + the tokens found


PLAIN = Plan("none", 1)


@dataclass
class DraftMemory:
    """What became of drafts so far, and for how many tokens to come there are none.

    Texts of one kind may share one, as `drafts=` of `generate`: the next one begins with what the last one taught.
    """

    cost: Cost = counted
    by_source: dict[Source, Agreement] = field(default_factory=lambda: {"denoised": Agreement(), "found": Agreement()})
    rest: int = 0
    last_rest: int = 0

    def begin_rest(self, lost: float) -> None:
        """Write plainly for a while, then try anew with some hope."""
        self.last_rest = min(max(FIRST_REST, 2 * self.last_rest, round(LOST_SHARE * lost)), LONGEST_REST)
        self.rest = self.last_rest
        self.by_source = {"denoised": Agreement(), "found": Agreement()}


@dataclass
class Drafting:
    """The plans of a row, round after round."""

    width: int | None  # of every draft; None: what pays
    steps: int  # denoising steps of a draft
    most: int  # positions of a canvas
    memory: DraftMemory = field(default_factory=DraftMemory)

    def plan(self, found: int, room: int) -> Plan:
        """The next draft. found: how many tokens a look at the text proposes. room: positions left for a canvas."""
        if self.width is not None:
            return Plan("denoised", self.width) if 1 < self.width <= room else PLAIN
        if self.memory.rest > 0:
            return PLAIN
        widths = [width for width in WIDTHS if width <= min(self.most, room)]
        plans = [Plan("found", 1 + found)] * (found > 0) + [Plan("denoised", width) for width in widths]
        best = max(plans, key=self._rate, default=PLAIN)
        if not plans or self._rate(best) > self._rate(PLAIN):
            return best
        self.memory.begin_rest(0.0)
        return PLAIN

    def verified(self, probabilities: Sequence[float]) -> int:
        """How much of a draft to verify, from the probability that the draft itself gives each of its tokens."""
        best = gain = reached = 0.0
        count, likely = 0, 1.0
        for index, probability in enumerate(probabilities, start=1):
            likely *= probability
            reached += likely
            gain = reached - (self.memory.cost(1 + index) - 1)
            if gain >= best:
                best, count = gain, index
        return count

    def record(self, plan: Plan, agreed: int) -> None:
        """Take in what became of the last round: 1 + `agreed` tokens."""
        memory = self.memory
        if plan.source == "none":
            memory.rest -= 1
            return
        memory.by_source[plan.source].record(plan.width - 1, agreed)
        lost = self._passes(plan) - (1 + agreed)
        if lost <= 0:
            memory.last_rest = 0
        elif self._rate(plan) <= self._rate(PLAIN) and self.width is None:
            memory.begin_rest(lost)

    def _rate(self, plan: Plan) -> float:
        """Tokens that a plan will give for the time of a pass of one position."""
        expected = 0.0 if plan.source == "none" else self.memory.by_source[plan.source].expected(plan.width - 1)
        return (1 + expected) / self._passes(plan)

    def _passes(self, plan: Plan) -> float:
        """What a plan costs, in passes of one position."""
        steps = self.steps if plan.source == "denoised" else 0
        return (steps + 1) * self.memory.cost(plan.width)


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
