"""Prompts through engines: a plan to a record, batch by batch.

Batches run side by side, and what is finished is in the journal, so that an interrupt costs a batch at most. Results
do not depend on how many run at once, nor on when they were interrupted. Knows nothing of tables and terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.measure.answers.engine import PromptBatch
from mlx_diffusion.measure.answers.item import Item
from mlx_diffusion.measure.answers.journal import FinishedBatch, Journal
from mlx_diffusion.measure.answers.plan import EvaluationPlan
from mlx_diffusion.measure.answers.record import Cell, Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.row_noise import seed_of
from mlx_diffusion.measure.answers.theory import FirstStep
from mlx_diffusion.measure.answers.workers import Answerer, spread
from mlx_diffusion.tokenizer import Tokenizer


@dataclass(frozen=True)
class EvaluationProgress:
    """A moment of a measurement, in prompts."""

    done: int
    total: int
    right: int  # of those done
    seconds: float
    earlier: int  # of those done, how many an earlier run did
    doing: str

    @property
    def seconds_left(self) -> float | None:
        new = self.done - self.earlier
        return (self.total - self.done) * self.seconds / new if new else None


@dataclass(frozen=True)
class Pending:
    """What of a plan a journal does not hold yet."""

    batches: list[tuple[int, str, int]]  # as `EvaluationPlan.batches` gives them
    first_steps: list[int]  # of the shuffles, by index

    @classmethod
    def of(cls, plan: EvaluationPlan, journal: Journal, first_steps: bool) -> Pending:
        present = {(batch.way, batch.family, batch.start) for batch in journal.batches}
        shuffles = range(len(plan.items.get("shuffle", ()))) if first_steps else ()
        return cls(
            [key for key in plan.batches() if key not in present],
            [index for index in shuffles if index not in journal.first_steps],
        )

    def __len__(self) -> int:
        """How many jobs that are."""
        return len(self.batches) + len(self.first_steps)


def measure(
    engines: Sequence[Answerer],
    tokenizer: Tokenizer,
    plan: EvaluationPlan,
    pending: Pending,
    journal: Journal,
    report: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> None:
    """Run what is pending of the plan, into the journal."""
    meter = _Meter(plan, journal, report)

    def batch(engine: Answerer, key: tuple[int, str, int]) -> FinishedBatch:
        return run_batch(engine, tokenizer, plan, *key)

    with closing(spread(batch, pending.batches, engines)) as batches:
        for done in batches:
            journal.add(done)
            meter.advance(done.outcomes, f"{plan.ways[done.way].label}, {done.family}")

    def look(engine: Answerer, index: int) -> tuple[int, FirstStep]:
        return index, run_first_step(
            engine, tokenizer, plan.items["shuffle"][index], seed_of(plan.seed, "shuffle", index)
        )

    with closing(spread(look, pending.first_steps, engines)) as steps:
        for index, step in steps:
            journal.add_first_step(index, step)
            meter.tell(f"one step of shuffle, {len(journal.first_steps)} of {len(plan.items['shuffle'])}")


def run_batch(
    engine: Answerer, tokenizer: Tokenizer, plan: EvaluationPlan, way: int, family: str, start: int
) -> FinishedBatch:
    """Have the prompts of one batch answered, and check the answers."""
    began = time.perf_counter()
    items = plan.items[family][start : start + plan.batch_size]
    request = PromptBatch(
        prompts=[item.tokens(tokenizer) for item in items],
        seeds=[seed_of(plan.seed, family, start + row) for row in range(len(items))],
        mode=plan.ways[way].mode.name,
        options=dict(plan.ways[way].options),
        max_tokens=plan.max_tokens,
    )
    answers = engine.answer(request)
    outcomes = tuple(
        PromptOutcome(
            right=item.is_right(answer.text),
            steps=answer.steps,
            canvases=answer.canvases,
            limited=answer.limited,
            tokens=answer.tokens,
            answer=answer.text,
        )
        for item, answer in zip(items, answers, strict=True)
    )
    return FinishedBatch(way, family, start, time.perf_counter() - began, outcomes)


def run_first_step(engine: Answerer, tokenizer: Tokenizer, shuffle: Item, seed: int) -> FirstStep:
    """What a single step makes of a shuffle."""
    assert shuffle.length is not None
    draw, argmax = map(shuffle.is_right, engine.first_step(shuffle.tokens(tokenizer), seed))
    return FirstStep(shuffle.length, draw, argmax)


def record_of(plan: EvaluationPlan, header: Mapping[str, Any], journal: Journal) -> Evaluation:
    """The whole record, once nothing is pending."""
    steps = tuple(step for _, step in sorted(journal.first_steps.items()))
    return Evaluation(header, _cells(plan, journal.batches), steps)


def _cells(plan: EvaluationPlan, batches: Sequence[FinishedBatch]) -> dict[tuple[int, str], Cell]:
    own: dict[tuple[int, str], list[FinishedBatch]] = {
        (way, family): [] for way in range(len(plan.ways)) for family in plan.items
    }
    for batch in sorted(batches, key=lambda batch: batch.start):
        own[batch.way, batch.family].append(batch)
    return {
        key: Cell(
            tuple(outcome for batch in found for outcome in batch.outcomes), sum(batch.seconds for batch in found)
        )
        for key, found in own.items()
    }


class _Meter:
    """Counts prompts and tells `report`."""

    def __init__(self, plan: EvaluationPlan, journal: Journal, report: Callable[[EvaluationProgress], None]) -> None:
        earlier = [outcome for batch in journal.batches for outcome in batch.outcomes]
        self._total = plan.prompts()
        self._done = self._earlier = len(earlier)
        self._right = sum(outcome.right for outcome in earlier)
        self._began = time.monotonic()
        self._report = report

    def advance(self, outcomes: Sequence[PromptOutcome], doing: str) -> None:
        self._done += len(outcomes)
        self._right += sum(outcome.right for outcome in outcomes)
        self.tell(doing)

    def tell(self, doing: str) -> None:
        seconds = time.monotonic() - self._began
        self._report(EvaluationProgress(self._done, self._total, self._right, seconds, self._earlier, doing))
