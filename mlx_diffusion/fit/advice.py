"""Advice which mode writes fastest on a chip, by prediction.

Knows nothing of how the chip was found out or how advice is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.fit.chips import Chip, chips_named
from mlx_diffusion.fit.draft_width import AGREEMENT, PROMPT, TOKENS, WIDTHS, best_width, kept_tokens
from mlx_diffusion.fit.prediction import ModelShape, predict
from mlx_diffusion.fit.schedules import REPORTED_STEPS, autoregressive, denoising, speculative


@dataclass(frozen=True)
class Advice:
    """Predicted tokens a second of every mode on a chip, for a model in a recipe, and the width of drafts it is for."""

    chip: Chip
    recipe: str
    tokens_per_second: Mapping[str, float]  # by mode, of those that no checkpoint must be measured for
    draft_width: int  # positions; 0: drafts are no faster than one token a pass

    @property
    def fastest(self) -> str:
        """The mode that is predicted to write fastest."""
        return max(self.tokens_per_second, key=lambda mode: self.tokens_per_second[mode])

    @property
    def line(self) -> str:
        """All of it in a sentence."""
        notes = {
            "reference": f" (in {REPORTED_STEPS} steps a canvas)",
            "speculative": f" (drafts of {self.draft_width or WIDTHS[0]}, {AGREEMENT:.0%} of whose tokens agree)",
        }
        speeds = [f"{mode} {speed:.0f}{notes.get(mode, '')}" for mode, speed in self.tokens_per_second.items()]
        return (
            f"Predicted on {self.chip.label} in {self.recipe}, not measured, tokens a second: {', '.join(speeds)}. "
            "mlx-diffusion bench --predict says more."
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "predicted": True,
            "chip": self.chip.label,
            "recipe": self.recipe,
            "tokens_per_second": dict(self.tokens_per_second),
            "draft_width": self.draft_width,
            "fastest": self.fastest,
        }


def advise(brand: str | None, raw: Mapping[str, Any], recipe: Recipe) -> Advice | None:
    """Advice for the chip of that name and a model with this config.json; None for a chip that is none of Apple's.

    Where one name stands for several chips, it is for the one with the fewest GPU cores.
    """
    if not (chips := chips_named(brand)):
        return None
    chip, config = chips[0], ModelConfig.from_dict(raw)
    shape = ModelShape.of_recipe(config, recipe)
    width = best_width(shape, chip, {width: kept_tokens(width) for width in WIDTHS})
    drafted = width or WIDTHS[0]
    schedules = {
        "reference": denoising(PROMPT, TOKENS, config.canvas_length, REPORTED_STEPS),
        "autoregressive": autoregressive(PROMPT, TOKENS),
        "speculative": speculative(PROMPT, TOKENS, drafted, kept_tokens(drafted)),
    }
    speeds = {mode: predict(schedule, shape, chip).tokens_per_second for mode, schedule in schedules.items()}
    return Advice(chip, recipe.name, speeds, width)
