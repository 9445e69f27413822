"""DiffusionGemma on MLX: load a checkpoint and watch it write text by denoising.

The names below are imported on first use, so that `import mlx_diffusion`, and with it `mlx-diffusion --help`, is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_diffusion.engine.noise import KeyedNoise, Noise
    from mlx_diffusion.engine.prefix_store import PrefixStore
    from mlx_diffusion.errors import (
        CheckpointError,
        ConversionError,
        DiffusionError,
        EvaluationError,
        OptionError,
        PromptError,
    )
    from mlx_diffusion.events import Draft, Event, Finish, Prefill, Segment, Stats
    from mlx_diffusion.generation import generate, stream_generate
    from mlx_diffusion.loading import load
    from mlx_diffusion.options import GenerationConfig

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConversionError",
    "DiffusionError",
    "Draft",
    "EvaluationError",
    "Event",
    "Finish",
    "GenerationConfig",
    "KeyedNoise",
    "Noise",
    "OptionError",
    "Prefill",
    "PrefixStore",
    "PromptError",
    "Segment",
    "Stats",
    "generate",
    "load",
    "stream_generate",
]

_HOMES = {
    "errors": ("CheckpointError", "ConversionError", "DiffusionError", "EvaluationError", "OptionError", "PromptError"),
    "events": ("Draft", "Event", "Finish", "Prefill", "Segment", "Stats"),
    "generation": ("generate", "stream_generate"),
    "loading": ("load",),
    "engine.noise": ("KeyedNoise", "Noise"),
    "options": ("GenerationConfig",),
    "engine.prefix_store": ("PrefixStore",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
