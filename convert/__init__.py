"""Hub weights to MLX checkpoints; imports as `mlx_diffusion.convert`.

The names below are imported on first use: the command shows the recipes' names without loading MLX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, RECIPES
    from mlx_diffusion.convert.conversion import Result, convert
    from mlx_diffusion.convert.progress import Progress

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Progress", "Result", "convert"]

_HOME = {
    "DEFAULT_RECIPE": "mlx_diffusion.checkpoint.recipes",
    "RECIPES": "mlx_diffusion.checkpoint.recipes",
    "Progress": "mlx_diffusion.convert.progress",
    "Result": "mlx_diffusion.convert.conversion",
    "convert": "mlx_diffusion.convert.conversion",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
