"""The picture of a benchmark: speed, first text and reach of every case, and ratios where a peer was run.

Knows nothing of how figures come about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlx_diffusion.measure.plotting import new_figure, plot_content
from mlx_diffusion.measure.speed.results import COMPARED, BenchmarkResults
from mlx_diffusion.measure.speed.runs import CaseRuns, Spread
from mlx_diffusion.measure.speed.tables import LABELS
from mlx_diffusion.modes import DENOISING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, THEIRS, LIMIT = "#2a6f97", "#c9a227", "#9a9a9a"


def benchmark_plot(results: BenchmarkResults, suffix: str) -> bytes:
    """The picture as the content of a PNG or SVG file."""
    return plot_content(benchmark_figure(results), suffix)


def benchmark_figure(results: BenchmarkResults) -> Figure:
    """The figure: three charts of the cases, and one of ratios where a peer was run."""
    ours = [case.measured for case in results.cases]
    theirs = [comparison.theirs for comparison in results.comparisons]
    charts = 4 if theirs else 3
    figure = new_figure(4.2 * charts, 4.0)
    axes = figure.subplots(1, charts)
    setup = results.setup
    figure.suptitle(f"{setup.model} on {setup.device['chip']} ({setup.dtype})", fontsize=11)
    _bars(axes[0], "tokens per second", "tokens_per_second", ours, theirs, results.peer)
    _bars(axes[1], "seconds to first text", "first_text_seconds", ours, theirs, results.peer)
    _reach(axes[2], results)
    if theirs:
        _ratios(axes[3], results)
    return figure


def _bars(
    axes: Axes, title: str, name: str, ours: Sequence[CaseRuns], theirs: Sequence[CaseRuns], peer: str | None
) -> None:
    """Medians as bars, the lowest and the highest run as whiskers."""
    groups = [("mlx-diffusion", OURS, ours)] + ([(str(peer), THEIRS, theirs)] if theirs else [])
    width = 0.8 / len(groups)
    for index, (label, colour, measured) in enumerate(groups):
        spreads = [one.spread(name) or Spread(0.0, 0.0, 0.0) for one in measured]
        places = [place + (index - (len(groups) - 1) / 2) * width for place in range(len(spreads))]
        axes.bar(
            places,
            [spread.median for spread in spreads],
            width,
            yerr=_whiskers(spreads),
            color=colour,
            label=label,
            capsize=2,
            error_kw={"linewidth": 1},
        )
    axes.set_title(title, fontsize=10)
    _name_cases(axes, ours)
    if len(groups) > 1:
        axes.legend(fontsize=8, frameon=False)


def _reach(axes: Axes, results: BenchmarkResults) -> None:
    """The seconds of a step beside those that the device's own kernels need, and their share."""
    cases = results.cases
    steps = [case.measured.median("step_seconds") for case in cases]
    least = [case.reach.share_of_ceiling * seconds for case, seconds in zip(cases, steps, strict=True)]
    places = range(len(cases))
    axes.bar(places, steps, 0.8, color=OURS, label="measured")
    axes.bar(places, least, 0.8, color=LIMIT, label="the device's own kernels")
    for place, case, seconds in zip(places, cases, steps, strict=True):
        axes.annotate(f"{case.reach.share_of_ceiling:.0%}", (place, seconds), ha="center", va="bottom", fontsize=8)
    denoise = all(case.measured.case.mode in DENOISING for case in cases)
    axes.set_title("seconds per denoising step" if denoise else "seconds per pass", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    _name_cases(axes, [case.measured for case in cases])


def _ratios(axes: Axes, results: BenchmarkResults) -> None:
    """Ours over theirs; left of the line is better."""
    height = 0.8 / len(results.comparisons)
    for index, comparison in enumerate(results.comparisons):
        spreads = [comparison.ratio(name) or Spread(0.0, 0.0, 0.0) for name in COMPARED]
        places = [place + (index - (len(results.comparisons) - 1) / 2) * height for place in range(len(COMPARED))]
        case = comparison.ours.case
        axes.barh(
            places,
            [spread.median for spread in spreads],
            height,
            xerr=_whiskers(spreads),
            label=f"{case.prompt_tokens} + {case.output_tokens}",
            capsize=2,
            error_kw={"linewidth": 1},
        )
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(COMPARED)), [LABELS[name] for name in COMPARED], fontsize=8)
    axes.set_title(f"mlx-diffusion / {results.peer}", fontsize=10)
    axes.set_ylim(-0.6, len(COMPARED) + 0.3)  # room for the legend
    axes.legend(fontsize=8, frameon=False, title="prompt + text, tokens", title_fontsize=8, ncols=3, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _whiskers(spreads: Sequence[Spread]) -> Any:
    below = [spread.median - spread.low for spread in spreads]
    return [below, [spread.high - spread.median for spread in spreads]]


def _name_cases(axes: Axes, measured: Sequence[CaseRuns]) -> None:
    modes = {one.case.mode for one in measured}
    names = [
        f"{one.case.prompt_tokens} + {one.case.output_tokens}" + (f"\n{one.case.mode}" if len(modes) > 1 else "")
        for one in measured
    ]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(-0.8, max(len(names), 2) - 0.2)
    axes.margins(y=0.3)  # room for the legend
    axes.set_xlabel("prompt + text, tokens", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
