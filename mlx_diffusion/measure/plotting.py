"""The part that all plots share: the files they can go into, new figures, and the content of a file.

Needs matplotlib, an optional dependency that is imported only when something is drawn, and no display. Knows nothing of
what is drawn.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_diffusion.errors import DiffusionError, EvaluationError, OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
MISSING = "--plot needs matplotlib; install it: pip install 'mlx-diffusion[plot]'"


def check_plot(file: Path, missing: type[DiffusionError] = EvaluationError) -> None:
    """Refuse, before any work, a file that cannot become a plot.

    Raises `OptionError` for its name or folder, and the error `missing` where there is no matplotlib.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise OptionError(f"--plot {file}: the name must end with {' or '.join(SUFFIXES)}")
    if not file.absolute().parent.is_dir():
        raise OptionError(f"--plot {file}: there is no folder {file.absolute().parent}; make it first")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise missing(MISSING) from None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_content(figure: Figure, suffix: str) -> bytes:
    """The content of a PNG or SVG file: the same bytes for the same figure, with text as text in an SVG."""
    from matplotlib import rc_context

    content, kind = BytesIO(), suffix.removeprefix(".").lower()
    undated = {"Date": None} if kind == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "mlx-diffusion", "svg.fonttype": "none"}):
        figure.savefig(content, format=kind, dpi=150, metadata=undated)
    return content.getvalue()
