"""Predicts a conversion: every recipe's size, and the longest context with which it runs on each Mac.

Reads safetensors headers, or only config.json where a folder has nothing else. Knows nothing of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.beside import DEFAULTS
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import CONFIG_FILE
from mlx_diffusion.checkpoint.headers import ITEM_BYTES, Tensor
from mlx_diffusion.checkpoint.recipe_files import find_recipe
from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, RECIPES, recipe_named
from mlx_diffusion.checkpoint.tensor_names import PARTS
from mlx_diffusion.checkpoint.text_tensors import check_complete
from mlx_diffusion.convert.gguf_source import GgufSource
from mlx_diffusion.convert.hub import open_source
from mlx_diffusion.convert.inspection import read_checked, read_config
from mlx_diffusion.convert.source import LocalSource, Source
from mlx_diffusion.display import count_of, size_text, table
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fit.footprint import SHORT_STEP, RecipeSizes, config_tensors, context_text, sizes_of, stated_context
from mlx_diffusion.fit.macs import MACS, Mac
from mlx_diffusion.fit.memory import Memory


@dataclass(frozen=True)
class DryRun:
    """The sizes that a source has in each recipe."""

    source: str
    revision: str | None
    read_from: str  # "headers" or "config.json"
    tensors: tuple[Tensor, ...]
    chosen: RecipeSizes
    recipes: Mapping[str, RecipeSizes]
    problems: Mapping[str, str]  # recipes that cannot be used on this checkpoint, and why

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def encodings(self) -> list[str]:
        """Those in which the source has matrices, beside plain numbers."""
        return sorted({tensor.dtype for tensor in self.tensors} - ITEM_BYTES.keys())

    def as_dict(self) -> dict[str, Any]:
        """The chosen recipe's figures at the top, all recipes' under `recipes`."""
        return {
            "source": self.source,
            "revision": self.revision,
            "read_from": self.read_from,
            "encodings": self.encodings,
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
            [name, *(_figure(unit, nbytes) for nbytes in (sized.total_bytes, *(sized.parts[part] for part in parts)))]
            for name, sized in self.recipes.items()
        ]
        contexts = [
            [name, _figure(unit, sized.memory.weight_bytes), *(_contexts(sized.memory, mac) for mac in MACS)]
            for name, sized in self.recipes.items()
        ]
        short = memory.in_steps_of(SHORT_STEP)
        kept_as = f", in {' and '.join(self.encodings)}" if self.encodings else ""
        lines = [
            f"{self.source}{revision}: {count_of(self.parameters, 'parameter')} in "
            f"{count_of(len(self.tensors), 'tensor')}"
            f"{kept_as} (read from {self.read_from})",
            "",
            f"The converted tensors, in {unit}:",
            "",
            table(["recipe", "all", *parts], figures),
            *(f"{name}: {problem}" for name, problem in self.problems.items()),
            "",
            "The longest context that fits a Mac's GPU, in tokens, on older – newer macOS (no: not even one canvas):",
            "",
            table(["recipe", "weights", *(f"{mac.memory_gib} GB" for mac in MACS)], contexts),
            "",
            "Weights are without the vision tower, which is not loaded. Beside them, at "
            f"{count_of(context, 'token')}, stand"
            f" {size_text(memory.cache_bytes(context))} of",
            f"cache and {size_text(memory.step_bytes(context))} for one step's arrays; with --prefill-step-size"
            f" {SHORT_STEP} the latter are {size_text(short.step_bytes(context))}.",
        ]
        return "\n".join(lines)


def dry_run(
    source: str | Path, rules: Sequence[str] = (), *, recipe: str | None = None, revision: str | None = None
) -> DryRun:
    """Predict a conversion by every recipe, or by `recipe` alone; `rules` are added to each.

    Raises CheckpointError for a source that is not whole, OptionError for the recipe and rules.
    """
    opened = open_source(source, revision=revision)
    config, tensors, read_from = _read(opened)
    chosen = find_recipe(recipe or DEFAULT_RECIPE).with_rules(rules)
    sized = {chosen.name: sizes_of(config, tensors, chosen)}
    problems = {}
    for name in RECIPES if recipe is None else ():
        if name != chosen.name:
            try:
                sized[name] = sizes_of(config, tensors, recipe_named(name).with_rules(rules))
            except CheckpointError as error:
                problems[name] = str(error)
    ordered = {name: sized[name] for name in (*RECIPES, *sized) if name in sized}
    return DryRun(opened.label, opened.revision, read_from, tuple(tensors), sized[chosen.name], ordered, problems)


def _read(source: Source) -> tuple[ModelConfig, list[Tensor], str]:
    """Config and tensors of a source, and where the tensors were read from."""
    content, raw, config = read_config(source)
    if isinstance(source, GgufSource):
        tensors, read_from = [one.tensor for one in source.tensors(raw, config)], "GGUF header"
    elif isinstance(source, LocalSource) and not any(source.folder.glob("*.safetensors")):
        try:
            tensors, read_from = config_tensors(raw, config), "config.json"
        except CheckpointError as error:
            raise CheckpointError(f"{source.label}/{CONFIG_FILE}: {error}") from None
    else:
        tensors = [one.tensor for one in source.tensors(raw, config)]
        read_from = "safetensors headers"
    check_complete(tensors, config, source.label)
    read_checked(source, _small_files(source), content, config)
    return config, tensors, read_from


def _small_files(source: Source) -> list[str]:
    """Those that are looked at: no tokenizer of a GGUF, since another may be given, and no large file on the Hub."""
    if isinstance(source, GgufSource):
        return [DEFAULTS]
    return [name for name in source.small_files() if isinstance(source, LocalSource) or name == DEFAULTS]


def _figure(unit: str, nbytes: int) -> str:
    """Bytes in GB or MB; small numbers have more decimals."""
    value = nbytes / {"GB": 1e9, "MB": 1e6}[unit]
    return f"{value:.2f}" if value >= 0.01 else f"{value:.4f}"


def _contexts(memory: Memory, mac: Mac) -> str:
    texts = [context_text(memory.longest_context(share)) for share in (mac.older_bytes, mac.newer_bytes)]
    return texts[0] if texts[0] == texts[1] else " – ".join(texts)
