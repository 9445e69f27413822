"""The results of a benchmark in words and tables. Knows nothing of terminals, nor of how a table is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mlx_diffusion.display import count_of, quantity
from mlx_diffusion.fit.cost import PassCost
from mlx_diffusion.measure.speed.cases import Case
from mlx_diffusion.measure.speed.results import COMPARED, BenchmarkResults, CaseResult, PeerComparison, Setup
from mlx_diffusion.measure.speed.runs import Spread
from mlx_diffusion.modes import DENOISING

ALONE = 0.9  # share of a core: with less, a run on the processor was not alone

LABELS = {
    "step_seconds": "seconds a step",
    "prompt_seconds": "prefill seconds",
    "first_text_seconds": "first text after, s",
    "cpu_seconds": "processor seconds, whole run",
    "memory_bytes": "memory over weights",
    "primitives": "primitives a step",
    "vocabulary_bytes": "moved in arrays of vocabulary width",
    "chunk_bytes": "and in chunks of it, uncompiled",
}


WORDS = (
    "",
    "mode",
    "part",
    "bound by",
    "chip",
    "fastest",
    "what was run",
)  # columns that hold words; the others hold numbers


@dataclass(frozen=True)
class TitledTable:
    """A table under its title; every row has as many cells as the header."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    def holds_words(self, column: int) -> bool:
        """Whether a column holds words, which are aligned left, or numbers."""
        return self.header[column] in WORDS


def benchmark_sections(results: BenchmarkResults) -> Iterator[TitledTable | str]:
    """All that people are shown: speed, work, a step's parts, the device's ceilings, and a peer's figures."""
    yield setup_text(results.setup)
    yield speed_table(results.cases)
    yield work_table(results.cases)
    if warning := busy_warning(results):
        yield warning
    for denoises in (True, False):
        for first in [case for case in results.cases if (case.measured.case.mode in DENOISING) == denoises][:1]:
            yield step_table(first.work.step, first.measured.case.prompt_tokens, denoises)
    yield ceiling_text(results)
    for comparison in results.comparisons:
        yield comparison_table(comparison, str(results.peer))


def setup_text(setup: Setup) -> str:
    """The model and the device in two lines."""
    device = setup.device
    cores = count_of(device["cpus"], "core") if device["cpus"] else "an unknown number of cores"
    steps = (
        "the checkpoint's stop rule" if setup.steps is None else f"{count_of(setup.steps, 'denoising step')} a canvas"
    )
    versions = ", ".join(f"{name} {version}" for name, version in device["packages"].items() if name.startswith("mlx"))
    return (
        f"{setup.model}: {count_of(setup.layers, 'layer')}, canvas {setup.canvas_length}, weights "
        f"{quantity(setup.weight_bytes, 'B')}, loaded in {setup.load_seconds:.1f} s; {steps}\n"
        f"{device['chip']}, {cores}, MLX on {str(device['device']).upper()} in {setup.dtype}; "
        f"{versions}"
    )


def busy_warning(results: BenchmarkResults) -> str | None:
    """A warning where MLX ran on the processor and shared it with other work."""
    shares = [run.cpu_seconds / run.seconds for case in results.cases for run in case.measured.runs]
    if results.setup.device["device"] != "cpu" or min(shares) >= ALONE:
        return None
    return (
        f"Other work was running: these runs had {min(shares):.0%} to {max(shares):.0%} of a core. Times say little; "
        "repeat them on an idle machine, or go by processor seconds."
    )


def speed_table(cases: Sequence[CaseResult]) -> TitledTable:
    """The figures that a user notices, one row for each case."""
    rows = [
        (
            *_name(measured.case),
            spread_text(measured.spread("tokens_per_second")),
            spread_text(measured.spread("first_text_seconds")),
            spread_text(measured.spread("prompt_tokens_per_second")),
            quantity(measured.median("memory_bytes"), "B"),
        )
        for measured in (result.measured for result in cases)
    ]
    header = ("prompt", "text", "mode", "tokens/s", "first text, s", "prefill tokens/s", "memory over weights")
    return TitledTable("Speed and memory: medians (lowest–highest)", header, rows)


def work_table(cases: Sequence[CaseResult]) -> TitledTable:
    """The work that a token takes, and how near it comes to the device's ceilings, one row for each case."""
    rows = [
        (
            *_name(result.measured.case),
            f"{result.measured.median('steps_per_token'):.3f}",
            f"{result.measured.median('positions_per_token'):.1f}",
            spread_text(result.measured.spread("step_seconds"), lambda seconds: three_digits(seconds * 1e3)),
            f"{result.reach.share_of_ceiling:.0%}",
            result.reach.bound,
        )
        for result in cases
    ]
    if all(result.measured.case.mode in DENOISING for result in cases):
        unit, title = "step", "Denoising steps and canvas positions a token, and the time of a step"
    else:
        unit, title = "pass", "Passes and positions a token, and the time of a pass"
    plural = "steps" if unit == "step" else "passes"
    header = ("prompt", "text", "mode", plural, "positions", f"ms/{unit}", "of ceiling", "bound by")
    return TitledTable(title, header, rows)


def _name(case: Case) -> tuple[str, str, str]:
    return str(case.prompt_tokens), str(case.output_tokens), case.mode


def step_table(step: PassCost, prompt_tokens: int, denoises: bool) -> TitledTable:
    """The operations and bytes of a denoising step, or of the encoder's choice of a token, one row for each part."""
    flops, nbytes = step.flops(), step.nbytes()
    rows = [
        (
            part,
            quantity(amount),
            f"{amount / step.total_flops:.1%}",
            quantity(nbytes.get(part, 0), "B"),
            f"{nbytes.get(part, 0) / step.total_bytes:.1%}",
        )
        for part, amount in flops.items()
    ]
    rows.append(("all", quantity(step.total_flops), "", quantity(step.total_bytes, "B"), ""))
    what = "One denoising step" if denoises else "A pass of one position"
    title = f"{what} behind {count_of(prompt_tokens, 'token')}, counted"
    return TitledTable(title, ("part", "FLOPs", "share", "bytes read", "share"), rows)


def ceiling_text(results: BenchmarkResults) -> str:
    """The device's ceilings, and a line for each case with its own rates."""
    ceilings = results.ceilings
    rates = ceilings.shapes.values()
    steps = (
        f"{quantity(min(rates), 'FLOP/s')} to {quantity(max(rates), 'FLOP/s')} in the products of a step, "
        if rates
        else ""
    )
    lines = [
        f"The device: {quantity(ceilings.dense_flops, 'FLOP/s')} in a large dense product, "
        f"{steps}{quantity(ceilings.copy_bytes, 'B/s')} in a copy."
    ]
    for result in results.cases:
        reached = result.reach
        lines.append(
            f"{result.measured.case}: {quantity(reached.flops_per_second, 'FLOP/s')} "
            f"({reached.share_of_dense:.0%} of the dense product), {quantity(reached.bytes_per_second, 'B/s')} of what "
            f"has to be read; prefill {quantity(reached.prompt_flops_per_second, 'FLOP/s')} "
            f"({reached.prompt_share_of_dense:.0%})"
        )
    return "\n".join(lines)


def comparison_table(comparison: PeerComparison, peer: str) -> TitledTable:
    """Ours, theirs, and the ratio with its spread over the runs."""
    rows = []
    for name in COMPARED:
        own, other = comparison.ours.spread(name), comparison.theirs.spread(name)
        text: Callable[[float], str] = _bytes_text if name == "memory_bytes" else _seconds_text
        ratio = spread_text(comparison.ratio(name), lambda value: f"{value:.3f}")
        rows.append((LABELS[name], spread_text(own, text), spread_text(other, text), ratio))
    ours, theirs = comparison.our_step.as_dict(), comparison.their_step.as_dict()
    for name, counted in comparison.counted_ratios.items():
        ratio = "unknown" if counted is None else f"{counted:.3f}"
        rows.append((LABELS[name], _count_text(name, ours[name]), _count_text(name, theirs[name]), ratio))
    return TitledTable(f"Against {peer}: {comparison.ours.case}", ("", "ours", "theirs", "ours / theirs"), rows)


def three_digits(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread_text(spread: Spread | None, text: Callable[[float], str] = three_digits) -> str:
    """The median, and the lowest and highest where they read differently."""
    if spread is None:
        return "none"
    middle, low, high = (text(value) for value in (spread.median, spread.low, spread.high))
    return middle if low == high else f"{middle} ({low}–{high})"


def _bytes_text(value: float) -> str:
    return quantity(value, "B")


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.4g}"


def _count_text(name: str, value: int | None) -> str:
    if value is None:
        return "unknown"
    return quantity(value, "B") if name.endswith("bytes") else str(value)
