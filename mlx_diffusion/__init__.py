"""DiffusionGemma on MLX: load a checkpoint and watch it write text by denoising.

The names below are imported on first use, so that `import mlx_diffusion`, and with it `mlx-diffusion --help`, is quick.
"""

from typing import TYPE_CHECKING

from mlx_diffusion.lazy_names import lazy_names

if TYPE_CHECKING:
    from mlx_diffusion.engine.drafting import DraftMemory
    from mlx_diffusion.engine.noise import KeyedNoise, Noise
    from mlx_diffusion.engine.prefix_store import PrefixStore
    from mlx_diffusion.errors import (
        CheckpointError,
        ConversionError,
        DiffusionError,
        EvaluationError,
        ForkError,
        OptionError,
        PromptError,
    )
    from mlx_diffusion.events import Draft, Event, Finish, Prefill, Segment, Stats, TokenLogprob
    from mlx_diffusion.filling.decisions import decide
    from mlx_diffusion.filling.forms import fill
    from mlx_diffusion.filling.infilling import infill, stream_infill
    from mlx_diffusion.generation import generate, stream_generate
    from mlx_diffusion.loading import load
    from mlx_diffusion.options import GenerationConfig

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConversionError",
    "DiffusionError",
    "Draft",
    "DraftMemory",
    "EvaluationError",
    "Event",
    "Finish",
    "ForkError",
    "GenerationConfig",
    "KeyedNoise",
    "Noise",
    "OptionError",
    "Prefill",
    "PrefixStore",
    "PromptError",
    "Segment",
    "Stats",
    "TokenLogprob",
    "decide",
    "fill",
    "generate",
    "infill",
    "load",
    "stream_generate",
    "stream_infill",
]

_HOMES = {
    "mlx_diffusion.errors": (
        "CheckpointError",
        "ConversionError",
        "DiffusionError",
        "EvaluationError",
        "ForkError",
        "OptionError",
        "PromptError",
    ),
    "mlx_diffusion.events": ("Draft", "Event", "Finish", "Prefill", "Segment", "Stats", "TokenLogprob"),
    "mlx_diffusion.filling.decisions": ("decide",),
    "mlx_diffusion.filling.forms": ("fill",),
    "mlx_diffusion.filling.infilling": ("infill", "stream_infill"),
    "mlx_diffusion.generation": ("generate", "stream_generate"),
    "mlx_diffusion.loading": ("load",),
    "mlx_diffusion.engine.drafting": ("DraftMemory",),
    "mlx_diffusion.engine.noise": ("KeyedNoise", "Noise"),
    "mlx_diffusion.options": ("GenerationConfig",),
    "mlx_diffusion.engine.prefix_store": ("PrefixStore",),
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
