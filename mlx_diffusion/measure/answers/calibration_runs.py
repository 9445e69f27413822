"""The answers that a calibration compares: the same prompts with any levers, batch by batch, none of them twice.

Prompts come in an order that is drawn once: each is of a family drawn at random, so that they are alike to any test
that stops early. Knows nothing of tests or of which levers there are.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from mlx_diffusion.checkpoint.speed import Levers
from mlx_diffusion.measure.answers.engine import Answer, PromptBatch
from mlx_diffusion.measure.answers.item import Item
from mlx_diffusion.measure.answers.line_file import LineFile
from mlx_diffusion.measure.answers.plan import seed_of
from mlx_diffusion.measure.answers.suites import draw_items
from mlx_diffusion.measure.answers.workers import Answerer, spread
from mlx_diffusion.measure.passes import STEPS, denoised, positions_of
from mlx_diffusion.tokenizer import Tokenizer


class Drawn(NamedTuple):
    """A prompt in its place."""

    family: str
    item: Item
    seed: int


class Judged(NamedTuple):
    """An answer: whether it is right, and the canvas positions that it took."""

    right: bool
    positions: int


def draw_prompts(families: Sequence[str], count: int, seed: int) -> list[Drawn]:
    """`count` prompts, each of a family drawn at random; where a family has no more, with another seed again.

    A larger count begins with the same ones.
    """
    rng = Random(f"{seed} calibration")
    order = [rng.choice(list(families)) for _ in range(count)]
    items = {family: draw_items(family, wanted, seed) for family, wanted in Counter(order).items()}
    taken: Counter[str] = Counter()
    drawn = []
    for family in order:
        number = taken[family]
        taken[family] += 1
        drawn.append(Drawn(family, items[family][number % len(items[family])], seed_of(seed, family, number)))
    return drawn


@dataclass
class Runs:
    """What has been answered so far; what is asked for and missing is run."""

    prompts: Sequence[Drawn]
    examinees: Sequence[Answerer]
    tokenizer: Tokenizer
    journal: LineFile
    batch_size: int
    max_tokens: int
    canvas_length: int
    report: Callable[[str], None] = lambda doing: None
    seconds: float = 0.0  # of work, earlier runs included
    _done: dict[tuple[str, int], list[Judged]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            for line in self.journal.lines:
                judged = [Judged(*_checked(*pair)) for pair in line["judged"]]
                if type(line["batch"]) is not int or line["batch"] < 0 or len(judged) != self.batch_size:
                    raise ValueError("no batch")
                self._done[_key(line["levers"]), line["batch"]] = judged
                self.seconds += float(line["seconds"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.journal.unusable() from None

    def judged(self, levers: Levers, count: int) -> list[Judged]:
        """The answers to the first `count` prompts, whole batches at least being run."""
        key, batches = _key(levers), range(-(-count // self.batch_size))
        missing = [batch for batch in batches if (key, batch) not in self._done]
        with closing(spread(lambda one, batch: self._run(one, levers, batch), missing, self.examinees)) as finished:
            for batch, judged, seconds in finished:
                self._done[key, batch] = judged
                self.seconds += seconds
                self.journal.append({"levers": dict(levers), "batch": batch, "seconds": seconds, "judged": judged})
                self.report(label_of(levers))
        return [one for batch in batches for one in self._done[key, batch]][:count]

    @property
    def answered(self) -> int:
        """How many answers have been given, over all levers."""
        return sum(map(len, self._done.values()))

    def done(self, levers: Levers) -> int:
        """How many of the first prompts have been answered with these levers."""
        key, count = _key(levers), 0
        while (key, count) in self._done:
            count += 1
        return min(count * self.batch_size, len(self.prompts))

    def _run(self, examinee: Answerer, levers: Levers, batch: int) -> tuple[int, list[Judged], float]:
        began = time.perf_counter()
        drawn = self.prompts[batch * self.batch_size :][: self.batch_size]
        tokens = [one.item.tokens(self.tokenizer) for one in drawn]
        asked = PromptBatch(tokens, [one.seed for one in drawn], "reference", levers, self.max_tokens)
        answers = zip(drawn, examinee.answer(asked), strict=True)
        judged = [Judged(one.item.is_right(answer.text), self._positions(answer)) for one, answer in answers]
        return batch, judged, round(time.perf_counter() - began, 3)

    def _positions(self, answer: Answer) -> int:
        return positions_of(answer.work or denoised(answer.steps, answer.canvases, self.canvas_length), STEPS)


def label_of(levers: Levers) -> str:
    """Levers in a few words."""
    return " ".join(f"{name}={value:g}" for name, value in levers.items()) or "reference"


def _key(levers: Mapping[str, float]) -> str:
    return json.dumps(dict(sorted(levers.items())))


def _checked(right: object, positions: object) -> tuple[bool, int]:
    if not isinstance(right, bool) or type(positions) is not int or positions < 1:
        raise ValueError("no answer")
    return right, positions
