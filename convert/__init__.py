"""Hub weights to MLX checkpoints; imports as `mlx_diffusion.convert`.

The names below are imported on first use: the command shows the recipes' names without loading MLX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conversion import Result, convert
    from .progress import Progress
    from .recipes import DEFAULT_RECIPE, RECIPES

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Progress", "Result", "convert"]

_HOME = {
    "DEFAULT_RECIPE": "recipes",
    "RECIPES": "recipes",
    "Progress": "progress",
    "Result": "conversion",
    "convert": "conversion",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
