"""Prompts through the engine: a plan to a record, batch by batch.

Batches run side by side on a CPU, and what is finished is in the journal, so that an interrupt costs a batch at most.
Results do not depend on how many run at once, nor on when they were interrupted. Knows nothing of tables and terminals.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event as Flag

from ..events import Draft, Finish, Segment
from ..generation import stream_generate
from ..model import DiffusionGemma
from ..stopping import through_stop
from ..tokenizer import TextStream, Tokenizer
from .item import Item
from .journal import Batch, Journal
from .modes import RandomAcceptance
from .parallel import Stopped, spread
from .plan import Plan
from .record import Cell, Outcome, Record
from .row_noise import noise_of, seed_of
from .theory import FirstStep


@dataclass(frozen=True)
class Progress:
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
class Engine:
    """A loaded checkpoint that answers prompts."""

    model: DiffusionGemma
    tokenizer: Tokenizer

    def batch(self, plan: Plan, way: int, family: str, start: int, stop: Flag) -> Batch:
        """Run the prompts of one batch. Raises `Stopped` once `stop` is set, within a denoising step."""
        began = time.perf_counter()
        items = plan.items[family][start : start + plan.batch_size]
        seeds = [seed_of(plan.seed, family, start + row) for row in range(len(items))]
        config = plan.ways[way].config(plan.max_tokens)
        limit = self.model.generation_defaults.resolve(config).max_denoising_steps
        texts = [""] * len(items)
        steps: list[Counter[int]] = [Counter() for _ in items]  # by canvas
        tokens = [0] * len(items)
        for event in stream_generate(
            self.model,
            self.tokenizer,
            [item.tokens(self.tokenizer) for item in items],
            config=config,
            noise=noise_of(seeds, self.model.config.vocab_size),
            acceptance=plan.ways[way].mode.acceptance(seeds),
        ):
            if stop.is_set():
                raise Stopped
            texts[event.row] += event.text
            if isinstance(event, Draft):
                steps[event.row][event.block] += 1
            elif isinstance(event, Finish):
                tokens[event.row] = event.stats.generated_tokens
        outcomes = tuple(
            Outcome(
                right=item.is_right(text),
                steps=taken.total(),
                canvases=len(taken),
                limited=sum(count == limit for count in taken.values()),
                tokens=written,
                answer=text,
            )
            for item, text, taken, written in zip(items, texts, steps, tokens, strict=True)
        )
        return Batch(way, family, start, time.perf_counter() - began, outcomes)

    def first_step(self, item: Item, seed: int, stop: Flag) -> FirstStep:
        """What one step at temperature 1 makes of a shuffle: an independent draw a position, and the argmax.

        The draw is what the second step is given when all of it is kept.
        """
        if stop.is_set():
            raise Stopped
        drafts = []
        for event in stream_generate(
            self.model,
            self.tokenizer,
            [item.tokens(self.tokenizer)],
            max_denoising_steps=2,
            max_tokens=self.model.config.canvas_length,
            t_min=0.0,
            t_max=1.0,  # the first step's
            stability_threshold=1,  # never met by the first step
            noise=noise_of([seed], self.model.config.vocab_size),
            acceptance=RandomAcceptance(1.0, (seed,)),
        ):
            if isinstance(event, Draft):
                drafts.append(event)
            if isinstance(event, Segment):
                break
        first, second = drafts
        assert item.length is not None
        draw, argmax = (item.is_right(self._text(tokens)) for tokens in (second.canvas.tolist(), first.argmax.tolist()))
        return FirstStep(item.length, draw, argmax)

    def _text(self, canvas: Sequence[int]) -> str:
        """The text of a canvas up to its stop token."""
        stops = self.model.generation_defaults.resolve().eos_token_id
        tokens, _ = through_stop(canvas, stops)
        return TextStream(self.tokenizer, {self.model.config.pad_token_id, *stops}).push(tokens, last=True)


def measure(
    engine: Engine,
    plan: Plan,
    header: dict[str, object],
    journal: Journal,
    *,
    workers: int,
    first_steps: bool = True,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Record:
    """Run what of the plan the journal does not hold yet, and give the whole record.

    With `first_steps`, shuffles are looked at after a single step, too: see `theory`.
    """
    meter = _Meter(plan, journal, report)
    present = {(batch.way, batch.family, batch.start) for batch in journal.batches}
    pending = [key for key in plan.batches() if key not in present]
    for batch in spread(lambda key, stop: engine.batch(plan, *key, stop), pending, workers):
        journal.add(batch)
        meter.advance(batch.outcomes, f"{plan.ways[batch.way].label}, {batch.family}")

    shuffles = [(index, item) for index, item in enumerate(plan.items.get("shuffle", ()) if first_steps else ())]
    missing = [(index, item) for index, item in shuffles if index not in journal.first_steps]

    def look(job: tuple[int, Item], stop: Flag) -> tuple[int, FirstStep]:
        index, item = job
        return index, engine.first_step(item, seed_of(plan.seed, "shuffle", index), stop)

    for index, step in spread(look, missing, workers):
        journal.add_first_step(index, step)
        meter.tell(f"one step of shuffle, {len(journal.first_steps)} of {len(shuffles)}")

    steps = tuple(journal.first_steps[index] for index, _ in shuffles)
    return Record(header, _cells(plan, journal.batches), steps)


def _cells(plan: Plan, batches: Sequence[Batch]) -> dict[tuple[int, str], Cell]:
    own: dict[tuple[int, str], list[Batch]] = {
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

    def __init__(self, plan: Plan, journal: Journal, report: Callable[[Progress], None]) -> None:
        earlier = [outcome for batch in journal.batches for outcome in batch.outcomes]
        self._total = plan.prompts()
        self._done = self._earlier = len(earlier)
        self._right = sum(outcome.right for outcome in earlier)
        self._began = time.monotonic()
        self._report = report

    def advance(self, outcomes: Sequence[Outcome], doing: str) -> None:
        self._done += len(outcomes)
        self._right += sum(outcome.right for outcome in outcomes)
        self.tell(doing)

    def tell(self, doing: str) -> None:
        seconds = time.monotonic() - self._began
        self._report(Progress(self._done, self._total, self._right, seconds, self._earlier, doing))
