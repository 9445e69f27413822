"""Takes the passes of recorded texts again on another model, to see whether time follows positions.

The schedules of a toy on layers of a large model, say: widths grow with the canvas. Shapes alone matter, so tokens are
random. Knows nothing of what the texts were or of how their schedules came about.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_diffusion.display import count_of
from mlx_diffusion.engine.denoising_row import begun, turn_of
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import REFERENCE, Canvas, Rules
from mlx_diffusion.engine.step import step
from mlx_diffusion.fit.chips import LABELS, SHOWN
from mlx_diffusion.fit.prediction import ModelShape, Pass, Schedule, predict_each
from mlx_diffusion.measure.speed.cases import random_prompt
from mlx_diffusion.measure.speed.tables import TitledTable
from mlx_diffusion.modes import Mode
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.options import GenerationConfig


def widened(schedule: Schedule, factor: float) -> Schedule:
    """The schedule with the widths behind its prompt multiplied, as on a longer canvas."""

    def wider(one: Pass) -> Pass:
        return replace(one, positions=math.ceil(one.positions * factor), logits=math.ceil(one.logits * factor))

    return replace(schedule, writing=tuple(wider(one) for one in schedule.writing))


def forwarded(schedule: Schedule) -> int:
    """The positions that go through the layers behind the prompt."""
    return sum(one.positions * one.times for one in schedule.writing)


class Replayer:
    """A model behind a prompt of random tokens, and the canvas at work."""

    def __init__(self, model: DiffusionGemma, prompt_tokens: int, seed: int) -> None:
        settings = model.generation_defaults.resolve(GenerationConfig(seed=seed))
        prompt = random_prompt(model.config, prompt_tokens, seed, ())
        self._model = model
        self._request = Request(tuple(prompt), settings, SeededDraws.of(seed, model.config.vocab_size), REFERENCE)
        self._rules = Rules.of(settings)
        self._cache: PrefixCache = model.make_cache(spare=0)
        model.encode([Passage(mx.array(prompt, dtype=mx.int32), self._cache)])
        mx.eval(self._cache.arrays())
        self._prefix = self._cache.prefix(few_shapes=model.compiled)

    def seconds(self, schedule: Schedule) -> float:
        """Take every pass behind the prompt; returns the seconds that they took."""
        mx.clear_cache()
        canvas = None
        started = time.perf_counter()
        for one in schedule.writing:
            for _ in range(one.times):
                if one.kind == "encode":
                    self._encode(one)
                else:
                    canvas = self._denoise(one, None if one.kind == "draft" else canvas)
        return time.perf_counter() - started

    def _encode(self, one: Pass) -> None:
        """Encode a finished canvas, and forget it."""
        fork = self._cache.fork()
        tokens = self._request.draws.initial(0, one.positions)
        mx.eval(self._model.encode([Passage(tokens, fork, one.logits)]), fork.arrays())

    def _denoise(self, one: Pass, canvas: Canvas | None) -> Canvas:
        """Take a step of a canvas, of a new one where there is none so wide; of a wider one the first positions."""
        if canvas is None or canvas.tokens.shape[0] < one.positions:
            canvas = begun(self._request, self._model, 0, one.positions)
        turn = turn_of(self._request, canvas, self._prefix, self._rules, 0, 0)
        if one.positions < canvas.tokens.shape[0]:
            turn = turn._replace(positions=mx.arange(one.positions, dtype=mx.int32))
        (stepped,) = step(self._model, [turn])
        mx.eval(stepped.canvas)
        return stepped.canvas


@dataclass(frozen=True)
class Replayed:
    """One way of writing: its schedule on the canvas of the model, and the seconds of every time it was taken."""

    mode: Mode
    schedule: Schedule
    seconds: tuple[float, ...]
    predicted: Mapping[str, float]  # seconds of the whole model by chip

    def as_dict(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "passes": sum(one.times for one in self.schedule.writing),
            "positions": forwarded(self.schedule),
            "seconds": list(self.seconds),
            "predicted_seconds": dict(self.predicted),
        }


def replay(
    model: DiffusionGemma,
    schedules: Mapping[Mode, Schedule],
    shape: ModelShape,
    *,
    seed: int,
    repeats: int,
    warm_up: bool,
    report: Callable[[str], None],
) -> list[Replayed]:
    """Take every schedule `repeats` times, in turn; with `warm_up`, a first turn is not counted.

    schedules: as they are to be taken, by way of writing. shape: the whole model, whose time is predicted.
    """
    first = next(iter(schedules.values()))
    replayer = Replayer(model, max((one.prefix + one.positions for one in first.prompt), default=1), seed)
    taken: dict[Mode, list[float]] = {mode: [] for mode in schedules}
    for turn in range(0 if warm_up else 1, repeats + 1):
        for mode, schedule in schedules.items():
            report(f"{mode}: " + ("warm-up" if turn == 0 else f"run {turn} of {repeats}"))
            seconds = replayer.seconds(schedule)
            if turn:
                taken[mode].append(seconds)
    return [
        Replayed(mode, schedule, tuple(taken[mode]), predicted_seconds(schedule, shape))
        for mode, schedule in schedules.items()
    ]


def predicted_seconds(schedule: Schedule, shape: ModelShape) -> dict[str, float]:
    """The predicted seconds of the passes behind the prompt, on three chips."""
    return {one.chip.label: one.writing.total for one in predict_each(schedule, shape, SHOWN)}


def replayed_sections(name: str, found: Sequence[Replayed]) -> Iterator[TitledTable | str]:
    """What people are shown: seconds and positions of each way, and both as shares of the first's."""
    base = found[0]
    passes = " and ".join(f"{one.mode} {count_of(one.as_dict()['passes'], 'pass')}" for one in found)
    yield (
        f"The passes of a recorded text, taken again on {name}: {passes}. Times are medians; what is predicted is the "
        "time of the whole model."
    )
    rows = []
    for one in found:
        positions = forwarded(one.schedule) / forwarded(base.schedule)
        pairs = [own / other for own, other in zip(one.seconds, base.seconds, strict=True)]
        shares = [f"{one.predicted[chip] / base.predicted[chip]:.3f}" for chip in LABELS]
        rows.append(
            (one.mode, f"{forwarded(one.schedule):,}", f"{positions:.3f}", f"{statistics.median(one.seconds):.2f}",
             f"{np.median(pairs):.3f}", f"{np.median(pairs) / positions:.2f}", *shares)
        )  # fmt: skip
    header = (
        "mode",
        "positions",
        "share",
        "seconds",
        "share",
        "time/positions",
        *(f"{one}, predicted" for one in LABELS),
    )
    yield TitledTable(f"Time and positions, as shares of {base.mode}'s", header, rows)
