"""Plans a conversion before anything is written: what becomes of each tensor, and in which file it goes.

Takes what a source says beside its weights and gives plain data. Knows nothing of the output's folder, of arrays or of
the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_diffusion.checkpoint.folder import CONFIG_FILE, HUB_ID
from mlx_diffusion.checkpoint.pieces import apply_recipe, bytes_by_part, quantization_table
from mlx_diffusion.checkpoint.recipe_files import RECIPE_FILE, is_own, recipe_content
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.convert.card import card
from mlx_diffusion.convert.inspection import Inspection
from mlx_diffusion.convert.known_files import CARD, WRITTEN
from mlx_diffusion.convert.origin import Origin
from mlx_diffusion.convert.record import ConversionRecord, record_of
from mlx_diffusion.convert.shards import Shard, split_into_shards, weight_index
from mlx_diffusion.convert.side_files import converted_config, side_files


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


def plan_conversion(found: Inspection, recipe: Recipe, command: str) -> ConversionPlan:
    """Check that a source is fit for the recipe, and plan its conversion.

    `command` is the command line that continues the conversion after an interruption. Raises CheckpointError and
    OptionError.
    """
    source = found.source
    label, revision = source.label, source.revision
    public = (
        label if HUB_ID.fullmatch(label) else "./" + label.rstrip("/").rsplit("/", 1)[-1]
    )  # no path of this machine
    made = apply_recipe([one.tensor for one in found.tensors], recipe)
    part_bytes, table = bytes_by_part(made), quantization_table(made)
    shards = split_into_shards(found.tensors, made)
    index = weight_index(shards)
    small = {name: content for name, content in found.small.items() if name not in WRITTEN}
    return ConversionPlan(
        part_bytes,
        shards,
        {name: source.changed(name) for shard in shards for name in shard.sources},
        found.stamps,
        side_files(
            small | ({RECIPE_FILE: recipe_content(recipe)} if is_own(recipe) else {}),
            index=index,
            card=card(public, revision, found.small.get(CARD, b""), recipe, made, part_bytes),
            config=converted_config(found.raw, table),
        ),
        Origin.of(public, revision, recipe),
        record_of(
            label, revision, found.stored, [(CONFIG_FILE, found.content), *small.items()], recipe.name, made, command
        ),
    )
