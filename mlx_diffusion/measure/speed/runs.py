"""Timed runs of a case: one that is not counted, then several that are, with their medians and spreads.

Times are those of `stream_generate`'s own `Stats`. Knows nothing of files, tables or other engines.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import mlx.core as mx

from mlx_diffusion.events import Finish
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.measure.passes import PassCounter, Passes, count_positions
from mlx_diffusion.measure.speed.cases import Case, random_prompt
from mlx_diffusion.modes import CAUSAL, DENOISING
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run. The time of the first text is None where there was no text."""

    tokens_per_second: float  # of the text, the prompt's time left out
    step_seconds: float  # the text's time over its steps
    steps_per_token: float
    positions_per_token: float  # pushed through the layers: of canvases, or of all passes behind the prompt
    first_text_seconds: float | None  # from the call, the prompt included
    prompt_seconds: float
    prompt_tokens_per_second: float
    memory_bytes: int  # the most in use at once, beyond what was held before the run: the weights
    steps: int  # of denoising; in a mode that writes by the encoder, all passes behind the prompt
    tokens: int
    seconds: float  # the whole run
    cpu_seconds: float  # of all threads of the process
    passes: Passes = ()  # behind the prompt; empty where they are not known

    @classmethod
    def of(
        cls,
        *,
        prompt_tokens: int,
        tokens: int,
        steps: int,
        positions: int,
        prompt_seconds: float,
        generation_seconds: float,
        first_text_seconds: float | None,
        memory_bytes: int,
        stopwatch: Stopwatch,
        passes: Passes = (),
    ) -> RunFigures:
        """The figures of a run from what was counted and timed, the same for every engine."""
        return cls(
            tokens_per_second=tokens / generation_seconds,
            step_seconds=generation_seconds / steps,
            steps_per_token=steps / tokens,
            positions_per_token=positions / tokens,
            first_text_seconds=first_text_seconds,
            prompt_seconds=prompt_seconds,
            prompt_tokens_per_second=prompt_tokens / prompt_seconds,
            memory_bytes=memory_bytes,
            steps=steps,
            tokens=tokens,
            seconds=stopwatch.seconds,
            cpu_seconds=stopwatch.cpu_seconds,
            passes=passes,
        )


@dataclass(frozen=True)
class Spread:
    """A figure over several runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        known = [value for value in values if value is not None]
        return cls(statistics.median(known), min(known), max(known)) if known else None


@dataclass(frozen=True)
class CaseRuns:
    """A case and the figures of its runs. Figures go by the names of the fields of `RunFigures`."""

    case: Case
    runs: tuple[RunFigures, ...]

    def spread(self, name: str) -> Spread | None:
        return Spread.of(getattr(run, name) for run in self.runs)

    def median(self, name: str) -> float:
        return float(statistics.median(getattr(run, name) for run in self.runs))

    def as_dict(self) -> dict[str, Any]:
        names = [field.name for field in fields(RunFigures) if field.name != "passes"]
        spreads: Mapping[str, Spread | None] = {name: self.spread(name) for name in names}
        return {
            **asdict(self.case),
            "runs": len(self.runs),
            "passes": [list(entry) for entry in self.runs[0].passes],
            **{name: None if spread is None else asdict(spread) for name, spread in spreads.items()},
        }


@dataclass(frozen=True)
class Stopwatch:
    """A moment, or the time between two: seconds of the clock, and of computing in all threads of the process."""

    seconds: float
    cpu_seconds: float

    @classmethod
    def start(cls) -> Stopwatch:
        return cls(time.perf_counter(), time.process_time())

    def stop(self) -> Stopwatch:
        return Stopwatch(time.perf_counter() - self.seconds, time.process_time() - self.cpu_seconds)


CaseRunner = Callable[[Case], RunFigures]


def time_runs(
    case: Case, runners: Sequence[CaseRunner], repeats: int, report: Callable[[str], None], *, warm_up: bool = True
) -> list[CaseRuns]:
    """Run a case with each of the runners in turn, `repeats` times.

    They take turns so that whatever slows the machine for a while slows all of them. With `warm_up`, a first turn is
    not counted. `report` is told how far it is.
    """
    samples: list[list[RunFigures]] = [[] for _ in runners]
    for turn in range(0 if warm_up else 1, repeats + 1):
        report(f"{case}: " + ("warm-up" if turn == 0 else f"run {turn} of {repeats}"))
        for run, kept in zip(runners, samples, strict=True):
            figures = run(case)
            if turn:
                kept.append(figures)
    return [CaseRuns(case, tuple(kept)) for kept in samples]


def library_runner(model: DiffusionGemma, tokenizer: Tokenizer, base: GenerationConfig) -> CaseRunner:
    """A runner of cases by this library, with the options that `Case.options` makes of `base`."""

    def run(case: Case) -> RunFigures:
        options = case.options(base)
        prompt = random_prompt(model.config, case.prompt_tokens, base.seed or 0, stop_tokens(model))
        before = clear_memory()
        writes, counter = case.mode in CAUSAL, PassCounter(case.mode in DENOISING)
        stopwatch = Stopwatch.start()
        for event in stream_generate(model, tokenizer, prompt, config=options):
            counter.take(event)
            if isinstance(event, Finish):
                stats = event.stats
        passes = counter.passes
        return RunFigures.of(
            prompt_tokens=stats.prompt_tokens,
            tokens=stats.generated_tokens,
            steps=stats.passes if writes else stats.denoising_steps,
            positions=count_positions(passes) if writes else stats.decoder_positions,
            prompt_seconds=stats.prompt_seconds,
            generation_seconds=stats.generation_seconds,
            first_text_seconds=stats.first_text_seconds,
            memory_bytes=mx.get_peak_memory() - before,
            stopwatch=stopwatch.stop(),
            passes=passes,
        )

    return run


def stop_tokens(model: DiffusionGemma) -> tuple[int, ...]:
    """The tokens that end a text of this checkpoint."""
    return model.generation_defaults.resolve().eos_token_id


def clear_memory() -> int:
    """Free unused buffers and reset the peak; returns the bytes still in use: the weights."""
    mx.clear_cache()
    mx.reset_peak_memory()
    return mx.get_active_memory()
