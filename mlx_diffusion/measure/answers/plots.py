"""The picture of an evaluation: accuracy against decoder positions per token, one line for each mode.

The same evaluation gives the same file. Knows nothing of the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_diffusion.measure.answers.evaluation import Evaluation
from mlx_diffusion.measure.answers.figures import denoises, overall_figures
from mlx_diffusion.measure.plotting import new_figure, plot_content

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"


def evaluation_plot(evaluation: Evaluation, suffix: str) -> bytes:
    """The picture as the content of a PNG or SVG file."""
    return plot_content(accuracy_figure(evaluation), suffix)


def accuracy_figure(evaluation: Evaluation) -> Figure:
    """The figure itself."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    for number, mode in enumerate(dict.fromkeys(entry["mode"] for entry in evaluation.variants)):
        _draw_mode(axes, evaluation, mode, number)
    swept = ", ".join(dict.fromkeys(name for entry in evaluation.variants for name in entry["options"]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    alike = denoises(evaluation)  # else a pass may be over one position or a canvas
    axes.set_xlabel("decoder positions per token (left is faster)" if alike else "positions per token")
    axes.set_ylabel("right answers, % (95 % interval)")
    axes.set_title(f"{evaluation.header['model']}" + (f": numbers are {swept}" if swept else ""), fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _draw_mode(axes: Axes, evaluation: Evaluation, mode: str, number: int) -> None:
    """The line of one mode, its points named by the values of their options."""
    points = {
        variant: overall_figures(evaluation, variant)
        for variant, entry in enumerate(evaluation.variants)
        if entry["mode"] == mode
    }
    line = sorted(points.values(), key=lambda point: point.positions_per_token)
    x = [point.positions_per_token for point in line]
    y = [100 * point.accuracy for point in line]
    errors = [
        [100 * (point.accuracy - point.low) for point in line],
        [100 * (point.high - point.accuracy) for point in line],
    ]
    colour, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
    axes.errorbar(x, y, yerr=errors, color=colour, marker=marker, capsize=2, linewidth=1.2, markersize=5, label=mode)
    for variant, point in points.items():
        values = ", ".join(f"{value:g}" for value in evaluation.variants[variant]["options"].values())
        axes.annotate(
            values, (point.positions_per_token, 100 * point.accuracy), textcoords="offset points",
            xytext=(5, -10 + 7 * number), fontsize=6, color=colour,
        )  # fmt: skip
