"""DiffusionGemma on MLX: load a checkpoint and watch it write text by denoising.

The names below are imported on first use, so that `import mlx_diffusion`, and with it `mlx-diffusion --help`, is quick.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import CheckpointError, ConversionError, DiffusionError, EvaluationError, OptionError, PromptError
    from .events import Draft, Event, Finish, Prefill, Segment, Stats
    from .generation import generate, stream_generate
    from .loading import load
    from .noise import KeyedNoise, Noise
    from .options import GenerationConfig
    from .prefixes import PrefixStore

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

# convert/ and cli/ lie beside this folder in the repository: where Python finds this folder first (started in the
# repository's root) and the package is installed too, the installed one supplies them.
__path__ = pkgutil.extend_path(__path__, __name__)

_HOMES = {
    "errors": ("CheckpointError", "ConversionError", "DiffusionError", "EvaluationError", "OptionError", "PromptError"),
    "events": ("Draft", "Event", "Finish", "Prefill", "Segment", "Stats"),
    "generation": ("generate", "stream_generate"),
    "loading": ("load",),
    "noise": ("KeyedNoise", "Noise"),
    "options": ("GenerationConfig",),
    "prefixes": ("PrefixStore",),
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
