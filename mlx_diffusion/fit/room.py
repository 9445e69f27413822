"""Whether a model, and the longest context that it is to run, fit this machine; said before any weights are loaded.

Knows nothing of the weights but their sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.headers import ITEM_BYTES, read_header
from mlx_diffusion.checkpoint.layout import VISION
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.display import size_text
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fit.diagnosis import LADDER
from mlx_diffusion.fit.footprint import config_tensors, sizes_of
from mlx_diffusion.fit.machine import Machine
from mlx_diffusion.fit.memory import Memory


def stored_weight_bytes(files: Iterable[Path], item_bytes: int) -> int:
    """What a checkpoint's text model takes in memory, from the headers of its files."""
    tensors = [stored.tensor for file in files for stored in read_header(file)]
    return sum(
        tensor.nbytes if tensor.dtype.startswith("U") else tensor.nbytes // ITEM_BYTES[tensor.dtype] * item_bytes
        for tensor in tensors
        if not tensor.name.startswith(VISION)
    )


def check_room(memory: Memory, context: int, machine: Machine, model: str, raw: Mapping[str, Any]) -> str | None:
    """A warning of one line where it will be slow, None where all is well; CheckpointError where it cannot be.

    A GPU cannot go past its share of the memory. A CPU may take all there is, but the system wants some of it. `raw` is
    the model's config.json, from which the recipe that would fit is found.
    """
    usable = machine.usable_bytes
    needed = memory.total_bytes(context)
    if usable is None or needed <= usable:
        return None
    recipe = _fitting(memory, context, usable, raw)
    remedy = "no recipe fits here" if recipe is None else f"the recipe {recipe} would fit"
    numbers = (
        f"{model} needs {size_text(needed)} with {context:,} tokens (weights {size_text(memory.weight_bytes)}, cache "
        f"{size_text(memory.cache_bytes(context))}, a step's arrays {size_text(memory.step_bytes(context))})"
    )
    if machine.device == "gpu" or needed > (machine.memory_bytes or usable):
        raise CheckpointError(f"{numbers}, and this machine has {size_text(usable)} for it; {remedy}")
    return f"{numbers}; beyond {size_text(usable)} this machine may have to swap; {remedy}"


def _fitting(memory: Memory, context: int, usable: int, raw: Mapping[str, Any]) -> str | None:
    """The first recipe of the ladder with which the same run fits; None where none does."""
    for name in LADDER:
        with suppress(CheckpointError):  # recipes whose groups do not divide the rows of this model
            sized = sizes_of(memory.config, config_tensors(raw, memory.config), RECIPES[name], memory.item_bytes)
            if replace(memory, weight_bytes=sized.memory.weight_bytes).total_bytes(context) <= usable:
                return name
    return None
