"""Counts of what MLX evaluates in one denoising step, which are the same on every machine.

A step is lazy: it is taken, and its graph is counted instead of being evaluated. Knows nothing of how a step is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from io import StringIO
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.device import as_on_a_gpu
from mlx_diffusion.engine.denoising_row import first_turn
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import REFERENCE
from mlx_diffusion.engine.step import step
from mlx_diffusion.measure.speed.cases import Case, random_prompt
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.sampling import columns
from mlx_diffusion.options import GenerationConfig

NODE = '[label ="'
VIEWS = ("Broadcast", "ExpandDims", "Squeeze", "Reshape", "Transpose", "StopGradient", "Unflatten", "Flatten")

MOST_PROMPT = 128  # tokens; a longer prompt hardly changes the counts, and encoding it takes long

CountArrays = Callable[[list[mx.array]], np.ndarray]  # arrays to one or more counts of their evaluation
StepCounter = Callable[[CountArrays], np.ndarray]  # builds one denoising step and counts in it


@dataclass(frozen=True)
class StepCounts:
    """Counts of one denoising step."""

    primitives: int  # after compilation: kernels and views
    vocabulary_bytes: int | None  # moved in arrays of the vocabulary's width, if nothing is compiled
    chunk_bytes: int | None  # the same, with arrays as wide as the chunks that the vocabulary is cut into

    def as_dict(self) -> dict[str, int | None]:
        return asdict(self)


def counting_case(case: Case) -> Case:
    """The case whose step is counted for this one, with a shorter prompt if this one's is long."""
    return replace(case, prompt_tokens=min(case.prompt_tokens, MOST_PROMPT))


def count_step(build: StepCounter, config: ModelConfig, case: Case) -> StepCounts:
    """Count a step of this case in every way. Bytes are None where MLX cannot export a primitive of the step."""
    length, vocab = config.canvas_length, config.vocab_size
    scores = case.prompt_tokens + length  # the width of attention scores, which are not to be counted

    def moved(arrays: list[mx.array]) -> np.ndarray:
        return np.array(
            [wide_bytes(arrays, length, widths - {scores}) for widths in ({vocab}, {vocab, columns(vocab)})]
        )

    (run,) = build(lambda arrays: np.array([primitives(arrays)])).tolist()
    moved_bytes = uncompiled(lambda: build(moved))
    return StepCounts(run, *([None, None] if moved_bytes is None else moved_bytes.tolist()))


def library_step_counter(model: DiffusionGemma, case: Case, base: GenerationConfig) -> StepCounter:
    """A counter of the first denoising step of this library, built as a GPU would run it.

    On a CPU, steps are otherwise not compiled, since every fused kernel takes a run of the C++ compiler.
    """
    settings = model.generation_defaults.resolve(case.options(base))
    prompt = random_prompt(model.config, case.prompt_tokens, settings.seed, ())
    draws = SeededDraws.of(settings.seed, model.config.vocab_size)
    request = Request(tuple(prompt), settings, draws, REFERENCE)

    def build(count: CountArrays) -> np.ndarray:
        compiled, model.compiled = model.compiled, True
        try:
            turn = first_turn(model, request)
            mx.eval(turn.canvas, turn.prefix)
            with as_on_a_gpu():
                (stepped,) = step(model, [turn])
        finally:
            model.compiled = compiled
        taken = stepped._replace(canvas=stepped.canvas._replace(kept=()))
        return count([array for array in dict(tree_flatten(taken)).values() if isinstance(array, mx.array)])

    return build


def primitives(arrays: list[mx.array]) -> int:
    """The number of primitives that evaluating these arrays runs."""
    text = StringIO()
    mx.export_to_dot(text, *arrays)
    return text.getvalue().count(NODE)


def wide_bytes(arrays: list[mx.array], rows: int, widths: Collection[int]) -> int:
    """Bytes that evaluating these arrays reads and writes in arrays of `rows` rows and one of these widths.

    Views move nothing and are left out. Raises ValueError for primitives that MLX cannot export, as all compiled ones.
    """
    total = 0

    def add_bytes(entry: dict[str, Any]) -> None:
        nonlocal total
        if entry["type"] == "primitive" and entry["name"] not in VIEWS:
            for _, shape, dtype in (*entry["inputs"], *entry["outputs"]):
                if len(shape) > 1 and shape[-2] == rows and shape[-1] in widths:
                    total += math.prod(shape) * dtype.size

    mx.export_function(add_bytes, lambda: arrays)
    return total


def uncompiled(count: Callable[[], np.ndarray]) -> np.ndarray | None:
    """Count without compiled functions; None where MLX cannot export a primitive."""
    mx.disable_compile()
    try:
        return count()
    except ValueError:
        return None
    finally:
        mx.enable_compile()
