"""The ways of writing, by name, and the options that not every one of them has.

Knows nothing of how any of them writes.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from mlx_diffusion.errors import OptionError

Mode = Literal["reference", "balanced", "fast", "autoregressive", "speculative"]
MODES: tuple[Mode, ...] = ("reference", "balanced", "fast", "autoregressive", "speculative")
DENOISING: tuple[Mode, ...] = ("reference", "balanced", "fast")
CAUSAL: tuple[Mode, ...] = ("autoregressive", "speculative")  # every token by the encoder's choice
LEVERS = ("early_end", "lock_threshold", "refresh_every", "crop_threshold", "first_canvas")  # all off in "reference"
SAFE_LEVERS: Mapping[Mode, Mapping[str, float]] = {  # held on every checkpoint that was measured: docs/speed.md
    "balanced": {"early_end": 0.99},
    "fast": {"early_end": 0.95},
}
MODES_WITH: Mapping[str, tuple[Mode, ...]] = {  # options that not every mode has
    **dict.fromkeys(("max_denoising_steps", "entropy_bound", "t_min", "t_max"), DENOISING),
    **dict.fromkeys(("stability_threshold", "confidence_threshold", "canvas_length"), DENOISING),
    **dict.fromkeys(LEVERS, DENOISING),
    **dict.fromkeys(("temperature", "top_p", "top_k", "min_p", "logit_bias", "logprobs"), CAUSAL),
    **dict.fromkeys(("repetition_penalty", "repetition_context_size"), CAUSAL),
    **dict.fromkeys(("draft_width", "draft_steps"), ("speculative",)),
}


def safe_levers(mode: Mode) -> Mapping[str, float]:
    """The levers of a mode on a checkpoint of which nothing is known."""
    return SAFE_LEVERS.get(mode, {})


def check_mode_has(mode: Mode, options: Iterable[str]) -> None:
    """Raise OptionError for an option that the mode does not have."""
    for name in options:
        if mode not in MODES_WITH.get(name, MODES):
            raise OptionError(f"mode {mode!r} has no option {name}; modes that have it: {', '.join(MODES_WITH[name])}")
