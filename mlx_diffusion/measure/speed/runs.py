"""A case run and measured: a run that is not counted, then several that are; medians and how far they spread.

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
from mlx_diffusion.measure.speed.cases import Case, random_prompt
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run. None is what a run does not have: no text, a prompt that takes no time."""

    tokens_per_second: float  # of the text, the prompt's time left out
    step_seconds: float  # denoising time over denoising steps
    steps_per_token: float
    positions_per_token: float  # canvas positions pushed through the layers
    first_text_seconds: float | None  # from the call, the prompt included
    prompt_seconds: float
    prompt_tokens_per_second: float
    memory_bytes: int  # the highest above what the process held before: above the weights
    steps: int
    tokens: int
    seconds: float  # the whole run
    cpu_seconds: float  # of all of the process's threads

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
    """A case and the figures of its runs, by the names of RunFigures's fields."""

    case: Case
    samples: tuple[RunFigures, ...]

    def spread(self, name: str) -> Spread | None:
        return Spread.of(getattr(sample, name) for sample in self.samples)

    def median(self, name: str) -> float:
        return float(statistics.median(getattr(sample, name) for sample in self.samples))

    def as_dict(self) -> dict[str, Any]:
        spreads: Mapping[str, Spread | None] = {field.name: self.spread(field.name) for field in fields(RunFigures)}
        return {
            **asdict(self.case),
            "runs": len(self.samples),
            **{name: None if spread is None else asdict(spread) for name, spread in spreads.items()},
        }


@dataclass(frozen=True)
class Stopwatch:
    """Seconds that have passed, and those that the process has computed in them."""

    seconds: float
    cpu_seconds: float

    @classmethod
    def start(cls) -> Stopwatch:
        return cls(time.perf_counter(), time.process_time())

    def stop(self) -> Stopwatch:
        return Stopwatch(time.perf_counter() - self.seconds, time.process_time() - self.cpu_seconds)


CaseRunner = Callable[[Case], RunFigures]


def measure(
    case: Case, runs: Sequence[CaseRunner], repeats: int, report: Callable[[str], None], *, warm_up: bool = True
) -> list[CaseRuns]:
    """Run a case by each of `runs` in turn, `repeats` times, with `warm_up` after one turn that is not counted.

    In turn, so that whatever slows the machine for a while slows all of them. `report` is told how far it is.
    """
    samples: list[list[RunFigures]] = [[] for _ in runs]
    for turn in range(0 if warm_up else 1, repeats + 1):
        report(f"{case}: " + ("warm-up" if turn == 0 else f"run {turn} of {repeats}"))
        for run, kept in zip(runs, samples, strict=True):
            sample = run(case)
            if turn:
                kept.append(sample)
    return [CaseRuns(case, tuple(kept)) for kept in samples]


def library_runner(model: DiffusionGemma, tokenizer: Tokenizer, base: GenerationConfig) -> CaseRunner:
    """How a case is run by this library, with the options that `Case.options` makes of `base`."""

    def run(case: Case) -> RunFigures:
        options = case.options(base)
        prompt = random_prompt(model.config, case.prompt_tokens, base.seed or 0, stop_tokens(model))
        before = clear_memory()
        stopwatch = Stopwatch.start()
        for event in stream_generate(model, tokenizer, prompt, config=options):
            if isinstance(event, Finish):
                stats = event.stats
        return RunFigures.of(
            prompt_tokens=stats.prompt_tokens,
            tokens=stats.generated_tokens,
            steps=stats.denoising_steps,
            positions=stats.decoder_positions,
            prompt_seconds=stats.prompt_seconds,
            generation_seconds=stats.generation_seconds,
            first_text_seconds=stats.first_text_seconds,
            memory_bytes=mx.get_peak_memory() - before,
            stopwatch=stopwatch.stop(),
        )

    return run


def stop_tokens(model: DiffusionGemma) -> tuple[int, ...]:
    """The tokens that end a text of this checkpoint."""
    return model.generation_defaults.resolve().eos_token_id


def clear_memory() -> int:
    """Forget buffers and the highest mark; returns what is held: the weights."""
    mx.clear_cache()
    mx.reset_peak_memory()
    return mx.get_active_memory()
