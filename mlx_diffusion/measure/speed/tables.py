"""Results as tables for people. Knows nothing of terminals: they are rich's, and whoever prints them has the width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.table import Table

from mlx_diffusion.measure.speed.cases import Case
from mlx_diffusion.measure.speed.cost import PassCost
from mlx_diffusion.measure.speed.results import COMPARED, BenchmarkResults, CaseResult, PeerComparison
from mlx_diffusion.measure.speed.runs import Spread

ALONE = 0.9  # of a core, below which a run on the processor was not alone

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


def tables(results: BenchmarkResults) -> Iterator[Table | str]:
    """What was measured, what a step consists of, what the device gives, and how a peer compares."""
    yield heading(results)
    yield speed_table(results.cases)
    yield work_table(results.cases)
    if warning := busy(results):
        yield warning
    first = results.cases[0]
    yield step_table(first.work.step, first.measured.case.prompt_tokens)
    yield ceiling_text(results)
    for comparison in results.comparisons:
        yield comparison_table(comparison, str(results.peer))


def heading(results: BenchmarkResults) -> str:
    subject = results.subject
    device = subject.device
    steps = "the checkpoint's stop rule" if subject.steps is None else f"{subject.steps} denoising steps a canvas"
    versions = ", ".join(f"{name} {version}" for name, version in device["packages"].items() if name.startswith("mlx"))
    return (
        f"{subject.model}: {subject.layers} layers, canvas {subject.canvas_length}, weights "
        f"{quantity(subject.weight_bytes, 'B')}, loaded in {subject.load_seconds:.1f} s; {steps}\n"
        f"{device['chip']}, {device['cpus']} cores, MLX on {str(device['device']).upper()} in {subject.dtype}; "
        f"{versions}"
    )


def busy(results: BenchmarkResults) -> str | None:
    """A warning where MLX runs on the processor and did not have it to itself."""
    shares = [one.cpu_seconds / one.seconds for case in results.cases for one in case.measured.samples]
    if results.subject.device["device"] != "cpu" or min(shares) >= ALONE:
        return None
    return (
        f"Other work was running: these runs had {min(shares):.0%} to {max(shares):.0%} of a core. Times say little; "
        "repeat them on an idle machine, or go by processor seconds."
    )


def speed_table(cases: Sequence[CaseResult]) -> Table:
    """What a user notices, one line a case."""
    table = _table(
        "Speed and memory: medians (lowest–highest)",
        "prompt", "text", "mode", "tokens/s", "first text, s", "prefill tokens/s", "memory over weights",
    )  # fmt: skip
    for measured in (result.measured for result in cases):
        table.add_row(
            *_name(measured.case),
            spread_text(measured.spread("tokens_per_second")),
            spread_text(measured.spread("first_text_seconds")),
            spread_text(measured.spread("prompt_tokens_per_second")),
            quantity(measured.median("memory_bytes"), "B"),
        )
    return table


def work_table(cases: Sequence[CaseResult]) -> Table:
    """How much work a token takes, and how near it comes to what the device allows, one line a case."""
    table = _table(
        "Denoising steps and canvas positions a token, and the time of a step",
        "prompt", "text", "mode", "steps", "positions", "ms/step", "of ceiling", "bound by",
    )  # fmt: skip
    for result in cases:
        table.add_row(
            *_name(result.measured.case),
            f"{result.measured.median('steps_per_token'):.3f}",
            f"{result.measured.median('positions_per_token'):.1f}",
            spread_text(result.measured.spread("step_seconds"), lambda seconds: number(seconds * 1e3)),
            f"{result.reach.share_of_ceiling:.0%}",
            result.reach.bound,
        )
    return table


def _name(case: Case) -> tuple[str, str, str]:
    return str(case.prompt_tokens), str(case.output_tokens), case.mode


def _table(title: str, *columns: str) -> Table:
    """Words to the left, numbers to the right; where there is no room, cells are wrapped and never cut."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        words = column in ("", "mode", "part", "bound by")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table


def step_table(step: PassCost, prompt_tokens: int) -> Table:
    """What a denoising step has to compute and to read, part by part."""
    title = f"One denoising step behind {prompt_tokens} tokens, counted"
    table = _table(title, "part", "FLOPs", "share", "bytes read", "share")
    flops, nbytes = step.flops(), step.nbytes()
    for part, amount in flops.items():
        read = nbytes.get(part, 0)
        table.add_row(
            part, quantity(amount), f"{amount / step.total_flops:.1%}",
            quantity(read, "B"), f"{read / step.total_bytes:.1%}",
        )  # fmt: skip
    table.add_row("all", quantity(step.total_flops), "", quantity(step.total_bytes, "B"), "")
    return table


def ceiling_text(results: BenchmarkResults) -> str:
    ceilings = results.ceilings
    rates = ceilings.shapes.values()
    lines = [
        f"The device: {quantity(ceilings.dense_flops, 'FLOP/s')} in a large dense product, "
        f"{quantity(min(rates), 'FLOP/s')} to {quantity(max(rates), 'FLOP/s')} in the products of a step, "
        f"{quantity(ceilings.copy_bytes, 'B/s')} in a copy."
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


def comparison_table(comparison: PeerComparison, peer: str) -> Table:
    """Ours, theirs, and the ratio with its spread over the runs."""
    table = _table(f"Against {peer}: {comparison.ours.case}", "", "ours", "theirs", "ours / theirs")
    for name in COMPARED:
        own, other = comparison.ours.spread(name), comparison.theirs.spread(name)
        text: Callable[[float], str] = quantity_bytes if name == "memory_bytes" else seconds_text
        table.add_row(
            LABELS[name], spread_text(own, text), spread_text(other, text),
            spread_text(comparison.ratio(name), lambda ratio: f"{ratio:.3f}"),
        )  # fmt: skip
    ours, theirs = comparison.our_step.as_dict(), comparison.their_step.as_dict()
    for name, ratio in comparison.counted_ratios.items():
        table.add_row(
            LABELS[name], counted_text(name, ours[name]), counted_text(name, theirs[name]),
            "unknown" if ratio is None else f"{ratio:.3f}",
        )  # fmt: skip
    return table


def number(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread_text(spread: Spread | None, text: Callable[[float], str] = number) -> str:
    """The median, and the lowest and highest where they read differently."""
    if spread is None:
        return "none"
    middle, low, high = (text(value) for value in (spread.median, spread.low, spread.high))
    return middle if low == high else f"{middle} ({low}–{high})"


def quantity(value: float, unit: str = "") -> str:
    """A number with three digits and its thousand: 1.23 GB."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def quantity_bytes(value: float) -> str:
    return quantity(value, "B")


def seconds_text(seconds: float) -> str:
    return f"{seconds:.4g}"


def counted_text(name: str, value: int | None) -> str:
    if value is None:
        return "unknown"
    return quantity(value, "B") if name.endswith("bytes") else str(value)
