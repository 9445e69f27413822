"""The width of drafts that writes fastest on a chip, by prediction, from how many tokens a round of each width keeps.

Knows nothing of how drafts are made or checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mlx_diffusion.device import on_cpu
from mlx_diffusion.engine.drafting import Cost, counted
from mlx_diffusion.fit.chips import Chip, chips_named
from mlx_diffusion.fit.machine import chip_name
from mlx_diffusion.fit.prediction import ModelShape, Pass, Schedule, predict
from mlx_diffusion.fit.products import formats_of
from mlx_diffusion.fit.schedules import autoregressive, speculative
from mlx_diffusion.network.model import DiffusionGemma

WIDTHS = (4, 8, 16, 32, 64)
# The share of drafted tokens that the encoder agrees with, each after an agreeing one. In stories of a bundled-size
# checkpoint, drafts of 32 positions from one step kept 7.6 tokens a round; of the published one nobody has measured it.
AGREEMENT = 0.87
PROMPT, TOKENS = 1000, 256  # for which widths are compared


def kept_tokens(width: int, agreement: float = AGREEMENT) -> float:
    """Tokens that a round makes final on average: a canvas of so many positions, whose first is the token before.

    Every drafted token is taken to agree with the same probability, whatever agreed before it; the first that does not
    is replaced by the encoder's own.
    """
    return width if agreement == 1 else (1 - agreement**width) / (1 - agreement)


def relative_costs(shape: ModelShape, chip: Chip, prefix: int = PROMPT) -> Cost:
    """The predicted time of a causal pass over so many positions, in passes over one."""

    @cache
    def seconds(positions: int, logits: int) -> float:
        schedule = Schedule((), (Pass("decode", positions, prefix, logits),), positions)
        return predict(schedule, shape, chip).writing.total

    def cost(positions: int, unread: int = 0) -> float:
        return seconds(positions, positions - unread) / seconds(1, 1)

    return cost


def costs_here(model: DiffusionGemma) -> Cost:
    """The costs by which a loaded model's drafts are planned on this machine: predicted ones, on a chip of Apple's.

    Passes are counted where the model runs on a CPU, or on a chip that is not known.
    """
    chips = () if on_cpu() else chips_named(chip_name())
    return relative_costs(ModelShape(model.config, formats_of(model)), chips[0]) if chips else counted


def best_width(shape: ModelShape, chip: Chip, kept: Mapping[int, float], drafts: int = 1) -> int:
    """The width, of those in `kept`, with which a text is predicted to be written fastest; 0: one token a pass.

    `kept` maps widths to the tokens that a round of that width keeps.
    """
    speeds = {0: predict(autoregressive(PROMPT, TOKENS), shape, chip).tokens_per_second}
    for width, tokens in kept.items():
        schedule = speculative(PROMPT, TOKENS, width, tokens, drafts)
        speeds[width] = predict(schedule, shape, chip).tokens_per_second
    return max(speeds, key=lambda width: speeds[width])
