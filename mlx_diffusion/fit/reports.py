"""Speeds of DiffusionGemma and of its autoregressive sibling that others measured on Macs, beside their prediction.

A report that a rate or a launch was taken from (`fitted`) says nothing about the prediction; the others do. Where a
report leaves something open, what is assumed stands in its `what`. Reports without a number of denoising steps, or
without a chip, cannot be predicted; docs/macs.md names them. Knows nothing of how anything is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.published import CONFIG
from mlx_diffusion.checkpoint.recipes import RECIPES, Recipe
from mlx_diffusion.fit.chips import Chip, chips_named
from mlx_diffusion.fit.prediction import ModelShape, Pass, Schedule, predict
from mlx_diffusion.fit.schedules import autoregressive, prompt_passes

HUB_4BIT = RECIPES["4bit"].with_rules(["*.experts.*=4,64"])  # mlx-community's DiffusionGemma
SIBLING_4BIT = RECIPES["8bit"].with_rules(["*=4,64", "*.mlp.*=8,64", "*.router.*=8,64"])  # its gemma-4-26b-a4b-it
PROMPT = 64  # tokens, where a report does not say


@dataclass(frozen=True)
class Report:
    """A measurement: what was run on which chip, the seconds that it took, and where that is written."""

    chip: Chip
    what: str
    schedule: Schedule
    recipe: Recipe
    seconds: float  # of the text; of the prompt where the schedule writes none
    source: str
    fitted: bool = False

    @property
    def predicted_seconds(self) -> float:
        """The prediction for the same schedule."""
        shape = ModelShape.of_recipe(ModelConfig.from_dict(CONFIG), self.recipe)
        found = predict(self.schedule, shape, self.chip)
        return found.writing.total if self.schedule.writing else found.prompt.total

    @property
    def error(self) -> float:
        """The predicted time beside the measured one: 0.1 is a tenth too long, −0.1 a tenth too short."""
        return self.predicted_seconds / self.seconds - 1


def _canvases(tokens: int, steps: int) -> Schedule:
    """Canvases of 256 positions, `steps` denoising steps in all of them together."""
    canvases = tokens // 256
    middle = PROMPT + tokens // 2
    writing = (
        Pass("draft", 256, middle, 256, canvases),
        Pass("denoise", 256, middle, 256, steps - canvases),
        Pass("encode", 256, middle, 0, canvases - 1),
    )
    return Schedule((), writing, tokens)


def _prompt(tokens: int) -> Schedule:
    return Schedule(prompt_passes(tokens), (), 0)


_M1_ULTRA, _M3_MAX, _M4_PRO, _M5_MAX = (chips_named(name)[-1] for name in ("M1 Ultra", "M3 Max", "M4 Pro", "M5 Max"))
_MLXCEL = "github.com/lablup/mlxcel/pull/218"
_OPENJEV = "github.com/Algorythm-Canada/OpenJevSwift, benchmarks of 2026-10-01: mlx-vlm"

REPORTS = (
    Report(_M1_ULTRA, "512 tokens, one a pass", autoregressive(PROMPT, 512), SIBLING_4BIT, 512 / 71.3, _MLXCEL, True),
    Report(_M1_ULTRA, "1,024 tokens, one a pass", autoregressive(PROMPT, 1024), SIBLING_4BIT, 1024 / 68.3, _MLXCEL),
    Report(
        _M4_PRO, "one token a pass, llama.cpp", autoregressive(PROMPT, 512), SIBLING_4BIT, 512 / 74,
        "github.com/ggml-org/llama.cpp/issues/25250", True,
    ),
    Report(
        _M5_MAX, "one token a pass", autoregressive(PROMPT, 512), SIBLING_4BIT, 512 / 151, "passed on without a page",
        True,
    ),
    Report(_M1_ULTRA, "512 tokens in 53 steps", _canvases(512, 53), HUB_4BIT, 512 / 15.1, _MLXCEL),
    Report(_M1_ULTRA, "1,024 tokens in 111 steps", _canvases(1024, 111), HUB_4BIT, 1024 / 14.28, _MLXCEL),
    Report(
        _M3_MAX, "one step of 32 positions", Schedule((), (Pass("draft", 32, 182, 32),), 32), HUB_4BIT, 0.0823,
        _OPENJEV,
    ),
    Report(_M3_MAX, "a prompt of 182 tokens", _prompt(182), HUB_4BIT, 0.2011, _OPENJEV),
    Report(_M3_MAX, "a prompt of 1,002 tokens", _prompt(1002), HUB_4BIT, 0.782, _OPENJEV),
    Report(_M3_MAX, "a prompt of 10,002 tokens", _prompt(10002), HUB_4BIT, 14.118, _OPENJEV),
)  # fmt: skip
