"""Predicts how long a schedule of passes takes on a chip: weights, keys and values, arithmetic, launches.

A schedule is what a run forwarded, pass by pass, without the tokens; `schedules.py` makes them. Every figure that comes
out is a prediction: nothing was run on the chip. Left out are the arrays between products (norms, scores, logits), the
host, heat, and other programs. Knows nothing of how schedules come about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.published import CONFIG
from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, Recipe, recipe_named
from mlx_diffusion.checkpoint.tensor_names import DECODER
from mlx_diffusion.fit.chips import Chip
from mlx_diffusion.fit.cost import PassCost, encode_cost, step_cost
from mlx_diffusion.fit.kernels import Rates
from mlx_diffusion.fit.memory import GPU_ITEM
from mlx_diffusion.fit.products import EXPERTS, Formats, Product

PassKind = Literal["encode", "decode", "draft", "denoise"]
Touched = Callable[[int], float]  # positions of a pass to the distinct experts that they choose in a layer

LAUNCHES = 40  # of kernels a layer
# Seconds a launch, by generation: what one token a pass takes on M1 Ultra (14.0 ms) and M5 Max (6.6 ms) beyond reading
# its weights, and on M4 Pro (13.5 ms, llama.cpp). M2 is taken to be as M1, and M3 as M4. docs/macs.md has the sources.
LAUNCH_SECONDS = {1: 8.0e-6, 2: 8.0e-6, 3: 1.5e-6, 4: 1.5e-6, 5: 1.0e-6}


@dataclass(frozen=True)
class Pass:
    """One pass through the layers, or `times` passes alike; less than none where a pass became another one.

    encode   causal, for keys and values alone: a prompt, or a canvas that is finished
    decode   causal, with the next token's logits at `logits` of the positions
    draft    a canvas's first denoising step, without a soft signal
    denoise  any further step
    """

    kind: PassKind
    positions: int  # forwarded
    prefix: int  # encoded positions before them
    logits: int  # positions that go through the head
    times: int = 1


@dataclass(frozen=True)
class Schedule:
    """The passes of a prompt, those that write the text behind it, and the number of tokens written."""

    prompt: tuple[Pass, ...]
    writing: tuple[Pass, ...]
    tokens: int


@dataclass(frozen=True)
class ModelShape:
    """A model as far as time depends on it: its sizes, the formats of its matrices, the experts that passes need."""

    config: ModelConfig
    formats: Formats
    item_bytes: int = GPU_ITEM
    touched: Touched | None = None  # None: as many as a router without preferences would choose

    @classmethod
    def of_recipe(cls, config: ModelConfig, recipe: Recipe) -> ModelShape:
        """A model that a conversion with this recipe would give."""
        return cls(config, cache(lambda path: recipe.spec(DECODER + path)))

    @cached_property
    def _products(self) -> dict[tuple[PassKind, int, int], tuple[Product, ...]]:
        """Those of passes before, by kind, positions and logits: behind any prefix they are the same."""
        return {}

    def cost(self, one: Pass) -> PassCost:
        """The work of one such pass; products alike, as layers have them, are one with their count."""
        alike = one.kind, one.positions, one.logits
        products = self._products.get(alike)
        if one.kind in ("encode", "decode"):
            cost = encode_cost(
                self.config, self.formats, one.positions, one.prefix, self.item_bytes, one.logits, products
            )
        else:
            conditioned = one.kind == "denoise"
            cost = step_cost(
                self.config, self.formats, one.prefix, self.item_bytes, one.positions,
                conditioned=conditioned, products=products,
            )  # fmt: skip
        if products is None:
            counts = Counter(cost.products).items()
            products = tuple(self._chosen(replace(own, count=own.count * n), one.positions) for own, n in counts)
            self._products[alike] = products
        return replace(cost, products=products)

    def _chosen(self, product: Product, positions: int) -> Product:
        """The product with as many experts as are known to be chosen, where that is known."""
        if self.touched is None or product.part != EXPERTS:
            return product
        return replace(product, matrices=self.touched(positions))


@cache
def published_shape(recipe: str = DEFAULT_RECIPE) -> ModelShape:
    """The published model, converted with a recipe."""
    return ModelShape.of_recipe(ModelConfig.from_dict(CONFIG), recipe_named(recipe))


@dataclass(frozen=True)
class Seconds:
    """Predicted seconds, part by part."""

    weights: float  # reading them
    keys_and_values: float  # reading those of the prefix
    arithmetic: float  # beyond what is done while weights are read
    launches: float

    @property
    def total(self) -> float:
        return self.weights + self.keys_and_values + self.arithmetic + self.launches

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(
            self.weights + other.weights,
            self.keys_and_values + other.keys_and_values,
            self.arithmetic + other.arithmetic,
            self.launches + other.launches,
        )

    def times(self, count: int) -> Seconds:
        return Seconds(
            self.weights * count, self.keys_and_values * count, self.arithmetic * count, self.launches * count
        )


@dataclass(frozen=True)
class Prediction:
    """The predicted time of a schedule on a chip."""

    chip: Chip
    schedule: Schedule
    prompt: Seconds
    writing: Seconds

    @property
    def tokens_per_second(self) -> float:
        """Of the text, its prompt not counted."""
        return self.schedule.tokens / self.writing.total


def predict(schedule: Schedule, shape: ModelShape, chip: Chip, *, float16: bool = False) -> Prediction:
    """How long the passes of a schedule take on a chip, in bfloat16 or, with `float16`, in that."""
    return predict_each(schedule, shape, (chip,), float16=float16)[0]


def predict_each(
    schedule: Schedule, shape: ModelShape, chips: Iterable[Chip], *, float16: bool = False
) -> list[Prediction]:
    """The same on each of several chips; what the passes cost is counted once."""
    prompt, writing = (
        [(shape.cost(one), one.times) for one in passes] for passes in (schedule.prompt, schedule.writing)
    )
    return [
        Prediction(chip, schedule, *(_seconds(costs, shape, chip, float16) for costs in (prompt, writing)))
        for chip in chips
    ]


def _seconds(costs: Iterable[tuple[PassCost, int]], shape: ModelShape, chip: Chip, float16: bool) -> Seconds:
    """The seconds on a chip of passes with these costs, each so many times."""
    rates = Rates.of(chip, float16=float16)
    launches = LAUNCHES * LAUNCH_SECONDS[chip.generation] * shape.config.num_hidden_layers
    total = Seconds(0.0, 0.0, 0.0, 0.0)
    for cost, times in costs:
        total += pass_seconds(cost, rates, launches).times(times)
    return total


def pass_seconds(cost: PassCost, rates: Rates, launches: float) -> Seconds:
    """Seconds of one pass: every product takes the longer of reading and arithmetic, and so does attention."""
    weights = arithmetic = 0.0
    for product in cost.products:
        read, computed = rates.seconds(product, cost.item_bytes)
        weights += read
        arithmetic += max(0.0, computed - read)
    cache = cost.cache_bytes / rates.bandwidth
    rate = rates.tiles if cost.positions > 1 else rates.rows
    arithmetic += max(0.0, cost.attention_flops / rate - cache) + cost.sampler_flops / rates.rows
    return Seconds(weights, cache, arithmetic, launches)
