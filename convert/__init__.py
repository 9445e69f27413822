"""Converts Hub weights to MLX checkpoints; imported as `mlx_diffusion.convert`.

The names below are imported on first use, so that the command can show the recipes' names without loading MLX.
"""

from typing import TYPE_CHECKING

from mlx_diffusion.lazy_names import lazy_names

if TYPE_CHECKING:
    from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, RECIPES
    from mlx_diffusion.convert.conversion import Result, convert
    from mlx_diffusion.convert.progress import Progress

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Progress", "Result", "convert"]

_HOMES = {
    "mlx_diffusion.checkpoint.recipes": ("DEFAULT_RECIPE", "RECIPES"),
    "mlx_diffusion.convert.progress": ("Progress",),
    "mlx_diffusion.convert.conversion": ("Result", "convert"),
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
