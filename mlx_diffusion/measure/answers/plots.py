"""The picture of a measurement: accuracy against decoder positions per token, one line a mode.

Needs matplotlib, which only this needs, and no display. The same record gives the same file. Knows nothing of the
command.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_diffusion.errors import EvaluationError, OptionError
from mlx_diffusion.measure.answers import figures
from mlx_diffusion.measure.answers.record import Evaluation
from mlx_diffusion.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
MARKERS = "osD^vPX*"


def check(file: Path) -> None:
    """Refuse what cannot be drawn, before anything is measured. Raises `OptionError` and `EvaluationError`."""
    if file.suffix.removeprefix(".").lower() not in FORMATS:
        raise OptionError(f"--plot {file}: a plot is a .png or an .svg; name the file so")
    _figure()


def draw(record: Evaluation, file: Path) -> None:
    """Draw the record into a PNG or SVG file, which appears whole or not at all."""
    check(file)
    figure = curves(record)
    content = BytesIO()
    kind = file.suffix.removeprefix(".").lower()
    without_date = {"Date": None} if kind == "svg" else {"Software": None}
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "mlx-diffusion", "svg.fonttype": "none"}):
        figure.savefig(content, format=kind, dpi=150, metadata=without_date)
    write_whole(file, content.getvalue(), error=EvaluationError)


def curves(record: Evaluation) -> Figure:
    """The figure itself."""
    figure = _figure()
    axes = figure.add_subplot()
    plan = record.header["plan"]
    modes = list(dict.fromkeys(way["mode"] for way in plan["ways"]))
    for number, mode in enumerate(modes):
        ways = [way for way, described in enumerate(plan["ways"]) if described["mode"] == mode]
        points = sorted((figures.of_all(record, way) for way in ways), key=lambda found: found.positions_per_token)
        x = [found.positions_per_token for found in points]
        y = [100 * found.accuracy for found in points]
        errors = [
            [100 * (found.accuracy - found.low) for found in points],
            [100 * (found.high - found.accuracy) for found in points],
        ]
        colour, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
        axes.errorbar(
            x, y, yerr=errors, color=colour, marker=marker, capsize=2, linewidth=1.2, markersize=5, label=mode
        )
        for way in ways:
            values = ", ".join(f"{value:g}" for value in plan["ways"][way]["options"].values())
            found = figures.of_all(record, way)
            place = (found.positions_per_token, 100 * found.accuracy)
            axes.annotate(
                values, place, textcoords="offset points", xytext=(5, -10 + 7 * number), fontsize=6, color=colour
            )
    swept = ", ".join(dict.fromkeys(name for way in plan["ways"] for name in way["options"]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("decoder positions per token (left is faster)")
    axes.set_ylabel("right answers, % (95 % interval)")
    axes.set_title(f"{record.header['model']}" + (f": numbers are {swept}" if swept else ""), fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _figure() -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise EvaluationError("a plot needs matplotlib; install it with: pip install 'mlx-diffusion[plot]'") from None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
