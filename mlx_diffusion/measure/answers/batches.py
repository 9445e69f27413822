"""The work of an evaluation, batch by batch: prompts go to examinees, and their checked answers into the journal.

Batches run side by side, and an interrupt loses those that are running and no more. Results depend neither on how many
run at once nor on where they were interrupted. Knows nothing of tables and terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.measure.answers.engine import PromptBatch
from mlx_diffusion.measure.answers.evaluation import Cell, Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.item import Item
from mlx_diffusion.measure.answers.journal import FinishedBatch, Journal
from mlx_diffusion.measure.answers.one_step_bound import FirstStep
from mlx_diffusion.measure.answers.plan import EvaluationPlan, seed_of
from mlx_diffusion.measure.answers.workers import Answerer, spread
from mlx_diffusion.modes import DENOISING
from mlx_diffusion.tokenizer import Tokenizer

SHUFFLE = "shuffle"  # the family whose first steps are compared with what one step can reach


@dataclass(frozen=True)
class EvaluationProgress:
    """How far an evaluation is, in prompts."""

    done: int
    total: int
    right: int  # of those done
    seconds: float
    earlier: int  # those that an earlier run had done
    doing: str

    @property
    def seconds_left(self) -> float | None:
        new = self.done - self.earlier
        return (self.total - self.done) * self.seconds / new if new else None


@dataclass(frozen=True)
class Pending:
    """The work of a plan that its journal does not hold yet."""

    batches: list[tuple[int, str, int]]  # as `EvaluationPlan.batches` gives them
    first_steps: list[int]  # numbers of shuffles

    @classmethod
    def of(cls, plan: EvaluationPlan, journal: Journal, first_steps: bool) -> Pending:
        present = {(batch.variant, batch.family, batch.start) for batch in journal.batches}
        denoises = any(variant.mode.writes in DENOISING for variant in plan.variants)
        shuffles = range(len(plan.items.get(SHUFFLE, ()))) if first_steps and denoises else ()
        return cls(
            [key for key in plan.batches() if key not in present],
            [index for index in shuffles if index not in journal.first_steps],
        )

    def __len__(self) -> int:
        """The number of jobs."""
        return len(self.batches) + len(self.first_steps)


def run_pending(
    examinees: Sequence[Answerer],
    tokenizer: Tokenizer,
    plan: EvaluationPlan,
    pending: Pending,
    journal: Journal,
    report: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> None:
    """Do the pending work of the plan and put the results into the journal."""
    meter = _Meter(plan, journal, report)

    def batch(examinee: Answerer, key: tuple[int, str, int]) -> FinishedBatch:
        return run_batch(examinee, tokenizer, plan, *key)

    with closing(spread(batch, pending.batches, examinees)) as batches:
        for finished in batches:
            journal.add(finished)
            meter.advance(finished.outcomes, f"{plan.variants[finished.variant].label}, {finished.family}")

    def first_step(examinee: Answerer, index: int) -> tuple[int, FirstStep]:
        seed = seed_of(plan.seed, SHUFFLE, index)
        return index, run_first_step(examinee, tokenizer, plan.items[SHUFFLE][index], seed)

    with closing(spread(first_step, pending.first_steps, examinees)) as steps:
        for index, step in steps:
            journal.add_first_step(index, step)
            meter.tell(f"one step of shuffle, {len(journal.first_steps)} of {len(plan.items[SHUFFLE])}")


def run_batch(
    examinee: Answerer, tokenizer: Tokenizer, plan: EvaluationPlan, variant: int, family: str, start: int
) -> FinishedBatch:
    """Have the prompts of one batch answered, and check the answers."""
    began = time.perf_counter()
    items = plan.items[family][start : start + plan.batch_size]
    prompts = PromptBatch(
        prompts=[item.tokens(tokenizer) for item in items],
        seeds=[seed_of(plan.seed, family, start + row) for row in range(len(items))],
        mode=plan.variants[variant].mode.name,
        options=dict(plan.variants[variant].options),
        max_tokens=plan.max_tokens,
        constraints=[None if item.constraint is None else dict(item.constraint) for item in items],
    )
    outcomes = tuple(
        PromptOutcome(
            item.is_right(answer.text),
            answer.steps,
            answer.canvases,
            answer.limited,
            answer.tokens,
            answer.text,
            len(prompt),
            answer.accepted,
            answer.work,
        )
        for item, prompt, answer in zip(items, prompts.prompts, examinee.answer(prompts), strict=True)
    )
    return FinishedBatch(variant, family, start, time.perf_counter() - began, outcomes)


def run_first_step(examinee: Answerer, tokenizer: Tokenizer, shuffle: Item, seed: int) -> FirstStep:
    """Take a single step of a shuffle, and check what it gives."""
    assert shuffle.length is not None
    draw, argmax = map(shuffle.is_right, examinee.first_step(shuffle.tokens(tokenizer), seed))
    return FirstStep(shuffle.length, draw, argmax)


def whole_evaluation(plan: EvaluationPlan, header: Mapping[str, Any], journal: Journal) -> Evaluation:
    """The evaluation that a journal holds once nothing is pending."""
    own: dict[tuple[int, str], list[FinishedBatch]] = {
        (variant, family): [] for variant in range(len(plan.variants)) for family in plan.items
    }
    for batch in sorted(journal.batches, key=lambda batch: batch.start):
        own[batch.variant, batch.family].append(batch)
    cells = {
        key: Cell(
            tuple(outcome for batch in found for outcome in batch.outcomes), sum(batch.seconds for batch in found)
        )
        for key, found in own.items()
    }
    return Evaluation(header, cells, tuple(step for _, step in sorted(journal.first_steps.items())))


class _Meter:
    """Counts prompts and tells `report`."""

    def __init__(self, plan: EvaluationPlan, journal: Journal, report: Callable[[EvaluationProgress], None]) -> None:
        earlier = [outcome for batch in journal.batches for outcome in batch.outcomes]
        self._total = plan.total_prompts()
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
