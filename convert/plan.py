"""Plans a conversion before anything is written: what becomes of each tensor, and in which file it goes.

Reads the small files of a source (config, headers, tokenizer, card) and gives plain data. Knows nothing of the output's
folder, of arrays or of the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import CONFIG_FILE, HUB_ID
from mlx_diffusion.checkpoint.pieces import apply_recipe, bytes_by_part, quantization_table
from mlx_diffusion.checkpoint.recipe_files import RECIPE_FILE, is_own, recipe_content
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.checkpoint.text_tensors import check_complete
from mlx_diffusion.convert.card import card
from mlx_diffusion.convert.known_files import CARD, WRITTEN
from mlx_diffusion.convert.origin import Origin
from mlx_diffusion.convert.record import ConversionRecord, record_of
from mlx_diffusion.convert.shards import Shard, split_into_shards, weight_index
from mlx_diffusion.convert.side_files import converted_config, side_files
from mlx_diffusion.convert.source import Source
from mlx_diffusion.json_files import parse_json


@dataclass(frozen=True)
class ConversionPlan:
    """All decisions of a conversion; what remains is to convert the weights and to write the files."""

    part_bytes: dict[str, int]  # of the tensors of each part of the model
    shards: list[Shard]  # the weight files
    changed: Mapping[str, int | None]  # a weight file of the source -> when it was last written, see `Source.changed`
    stamps: Mapping[str, tuple[int, ...] | None]  # the same file -> its state before it was read, see `Source.stamp`
    side_files: Mapping[str, bytes]  # all other files but the origin, the config last
    origin: Origin  # as yet without digests of the source
    record: ConversionRecord
    note: str | None  # about the source, for the user


def plan_conversion(source: Source, recipe: Recipe, command: str) -> ConversionPlan:
    """Check that a source is whole, unquantised and fit for the recipe, and plan its conversion.

    `command` is the command line that continues the conversion after an interruption. Raises CheckpointError and
    OptionError.
    """
    label, revision = source.label, source.revision
    public = (
        label if HUB_ID.fullmatch(label) else "./" + label.rstrip("/").rsplit("/", 1)[-1]
    )  # no path of this machine
    content, raw, config = read_config(source)
    stamps = {name: source.stamp(name) for name in source.shards()}
    stored = source.headers()
    sources = source.tensors(raw, config)
    tensors = [one.tensor for one in sources]
    check_complete(tensors, config, label)
    made = apply_recipe(tensors, recipe)
    part_bytes, table = bytes_by_part(made), quantization_table(made)
    shards = split_into_shards(sources, made)
    index = weight_index(shards)

    names = source.small_files()
    small = {name: source.read_small(name) for name in names if name not in WRITTEN}
    source_card = source.read_small(CARD) if CARD in names else b""
    return ConversionPlan(
        part_bytes,
        shards,
        {name: source.changed(name) for shard in shards for name in shard.sources},
        stamps,
        side_files(
            small | ({RECIPE_FILE: recipe_content(recipe)} if is_own(recipe) else {}),
            index=index,
            card=card(public, revision, source_card, recipe, made, part_bytes),
            config=converted_config(raw, table),
        ),
        Origin.of(public, revision, recipe),
        record_of(label, revision, stored, [(CONFIG_FILE, content), *small.items()], recipe.name, made, command),
        source.note(raw, sources),
    )


def read_config(source: Source) -> tuple[bytes, dict[str, Any], ModelConfig]:
    """A source's config.json as bytes, as JSON, and as the facts of its model. Raises CheckpointError."""
    where = f"{source.label}/{CONFIG_FILE}"
    content = source.read_small(CONFIG_FILE)
    raw = parse_json(content, where)
    return content, raw, ModelConfig.from_dict(raw, where=where)
