"""How large each recipe makes a checkpoint, part by part, and on which Macs it runs with how long a context.

Needs the names and shapes of the tensors alone: from safetensors headers, or from config.json where nothing else is
there. Sizes are those of the tensors that a conversion writes. Knows nothing of arrays or the terminal's width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.config import ModelConfig
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fields import get, parse_json
from mlx_diffusion.tensors import Tensor

from .hub import open_source
from .layout import PARTS, check_complete, pieces, sizes, text_tensors
from .macs import MACS, Mac
from .memory import GPU_ITEM, Memory, weight_bytes
from .recipes import DEFAULT_RECIPE, RECIPES, Recipe
from .recipes import recipe as recipe_named
from .source import LocalSource, Source
from .vision import vision_tensors
from .words import size_text

CONTEXT = 32768  # tokens, for which the cache and a step's arrays are stated; no more than the model takes
SHORT_STEP = 256  # --prefill-step-size for the longest contexts: one canvas's worth


@dataclass(frozen=True)
class Sizes:
    """One recipe: bytes on disk by part, and what a run takes in memory."""

    recipe: str
    parts: Mapping[str, int]
    memory: Memory

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())

    def as_dict(self) -> dict[str, Any]:
        memory = self.memory
        context = stated_context(memory.config)
        return {
            "total_bytes": self.total_bytes,
            "parts": dict(self.parts),
            "weights_in_memory_bytes": memory.weight_bytes,
            "context": context,
            "cache_bytes": memory.cache_bytes(context),
            "step_bytes": memory.step_bytes(context),
            "macs": [self._on(mac) for mac in MACS],
        }

    def _on(self, mac: Mac) -> dict[str, Any]:
        shares = (mac.older_bytes, mac.newer_bytes)
        contexts = [self.memory.longest_context(share) for share in shares]
        return {
            "memory_gib": mac.memory_gib,
            "gpu_bytes": shares,
            "fits": [context is not None for context in contexts],
            "longest_context": contexts,
            "longest_context_short_steps": [self.memory.in_steps_of(SHORT_STEP).longest_context(s) for s in shares],
        }


@dataclass(frozen=True)
class DryRun:
    """What a conversion of a source would give."""

    source: str
    revision: str | None
    read_from: str  # "headers" or "config.json"
    tensors: tuple[Tensor, ...]
    chosen: Sizes
    recipes: Mapping[str, Sizes]
    problems: Mapping[str, str]  # recipes that cannot be used on this checkpoint, and why

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def as_dict(self) -> dict[str, Any]:
        """The chosen recipe's figures at the top, all recipes' under `recipes`."""
        return {
            "source": self.source,
            "revision": self.revision,
            "read_from": self.read_from,
            "tensors": len(self.tensors),
            "parameters": self.parameters,
            "recipe": self.chosen.recipe,
            **self.chosen.as_dict(),
            "recipes": {name: sized.as_dict() for name, sized in self.recipes.items()},
            "problems": dict(self.problems),
        }

    def table(self) -> str:
        """Two tables for people: sizes by part, and the longest contexts by Mac."""
        memory = self.chosen.memory
        context = stated_context(memory.config)
        revision = f" at {self.revision}" if self.revision else ""
        parts = [part for part in PARTS if any(sized.parts[part] for sized in self.recipes.values())]
        unit = "GB" if self.chosen.total_bytes >= 1e9 else "MB"
        figures = [
            [name, *(_in(unit, nbytes) for nbytes in (sized.total_bytes, *(sized.parts[part] for part in parts)))]
            for name, sized in self.recipes.items()
        ]
        contexts = [
            [name, _in(unit, sized.memory.weight_bytes), *(_range(sized.memory, mac) for mac in MACS)]
            for name, sized in self.recipes.items()
        ]
        short = memory.in_steps_of(SHORT_STEP)
        lines = [
            f"{self.source}{revision}: {self.parameters:,} parameters in {len(self.tensors):,} tensors"
            f" (read from {self.read_from})",
            "",
            f"The converted tensors, in {unit}:",
            "",
            *grid(["recipe", "all", *parts], figures),
            *(f"{name}: {problem}" for name, problem in self.problems.items()),
            "",
            "The longest context that fits a Mac's GPU, in tokens, on older – newer macOS (no: not even one canvas):",
            "",
            *grid(["recipe", "weights", *(f"{mac.memory_gib} GB" for mac in MACS)], contexts),
            "",
            f"Weights are without the vision tower, which is not loaded. Beside them, at {context:,} tokens, stand"
            f" {size_text(memory.cache_bytes(context))} of",
            f"cache and {size_text(memory.step_bytes(context))} for one step's arrays; with --prefill-step-size"
            f" {SHORT_STEP} the latter are {size_text(short.step_bytes(context))}.",
        ]
        return "\n".join(lines)


def dry_run(
    source: str | Path, rules: Sequence[str] = (), *, recipe: str | None = None, revision: str | None = None
) -> DryRun:
    """What a conversion would give with each recipe, or with `recipe` alone; `rules` are put behind it or them all.

    Raises CheckpointError for a source that is not whole, OptionError for the recipe and rules.
    """
    opened = open_source(source, revision=revision)
    config, tensors, read_from = _read(opened)
    chosen = recipe_named(recipe or DEFAULT_RECIPE).with_rules(rules)
    sized = {chosen.name: sizes_of(config, tensors, chosen)}
    problems = {}
    for name in RECIPES if recipe is None else ():
        if name != chosen.name:
            try:
                sized[name] = sizes_of(config, tensors, recipe_named(name).with_rules(rules))
            except CheckpointError as error:
                problems[name] = str(error)
    ordered = {name: sized[name] for name in RECIPES if name in sized}
    return DryRun(opened.label, opened.revision, read_from, tuple(tensors), sized[chosen.name], ordered, problems)


def sizes_of(config: ModelConfig, tensors: Iterable[Tensor], recipe: Recipe, item_bytes: int = GPU_ITEM) -> Sizes:
    """The figures of one recipe, for activations of that many bytes."""
    made = pieces(tensors, recipe)
    return Sizes(recipe.name, sizes(made), Memory(config, weight_bytes(made, item_bytes), item_bytes))


def stated_context(config: ModelConfig) -> int:
    return min(CONTEXT, config.max_position_embeddings)


def config_tensors(raw: Mapping[str, Any], config: ModelConfig) -> list[Tensor]:
    """All tensors that a config.json stands for; a checkpoint without vision_config has no tower."""
    text = text_tensors(config)
    if raw.get("vision_config") is None:
        return text
    return text + vision_tensors(get(raw, "vision_config", dict), config.hidden_size)


def _read(source: Source) -> tuple[ModelConfig, list[Tensor], str]:
    """Config and tensors of a source, and where the tensors were read from."""
    where = f"{source.label}/config.json"
    raw = parse_json(source.read_small("config.json"), where)
    config = ModelConfig.from_dict(raw, where=where)
    if isinstance(source, LocalSource) and not any(source.folder.glob("*.safetensors")):
        try:
            tensors, read_from = config_tensors(raw, config), "config.json"
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from None
    else:
        tensors, read_from = [stored.tensor for stored in source.headers()], "safetensors headers"
    check_complete(tensors, config, source.label)
    return config, tensors, read_from


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in columns: the first to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]


def _in(unit: str, nbytes: int) -> str:
    """Bytes in GB or MB, small ones with more places."""
    value = nbytes / {"GB": 1e9, "MB": 1e6}[unit]
    return f"{value:.2f}" if value >= 0.01 else f"{value:.4f}"


def _range(memory: Memory, mac: Mac) -> str:
    texts = [context_text(memory.longest_context(share)) for share in (mac.older_bytes, mac.newer_bytes)]
    return texts[0] if texts[0] == texts[1] else " – ".join(texts)


def context_text(context: int | None) -> str:
    """A context in thousands of 1,024 tokens, rounded down; "no" where nothing fits."""
    if context is None:
        return "no"
    return f"{context // 1024}K" if context >= 1024 else str(context)
