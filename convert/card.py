"""The README.md of a converted checkpoint: its source, the format and the size of each part.

It has no dates and no paths of the output, so that the same conversion writes the same card wherever and whenever it
runs. Knows nothing of how weights are converted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from huggingface_hub import ModelCardData

from mlx_diffusion import __version__
from mlx_diffusion.checkpoint.folder import HUB_ID
from mlx_diffusion.checkpoint.formats import spec_text
from mlx_diffusion.checkpoint.pieces import Piece
from mlx_diffusion.checkpoint.recipe_files import RECIPE_FILE, is_own
from mlx_diffusion.checkpoint.recipes import Recipe, rule_text
from mlx_diffusion.checkpoint.tensor_names import PARTS
from mlx_diffusion.convert.command_line import command_line
from mlx_diffusion.display import count_of, size_text

CARRIED = ("license", "license_name", "license_link", "pipeline_tag")
OUTPUT = "OUTPUT"  # stands for the reader's own folder


def card(
    label: str,
    revision: str | None,
    source_card: bytes,
    recipe: Recipe,
    made: Sequence[Piece],
    part_bytes: Mapping[str, int],
) -> str:
    """The card of a source converted by a recipe; its licence comes from the source's own card.

    `part_bytes` are the sizes of `made` by part of the model.
    """
    total = sum(part_bytes.values())
    name = label.rstrip("/").rsplit("/", 1)[-1]
    parts = [part for part in PARTS if part_bytes[part]]
    rows = [f"| {part} | {_formats(part, made)} | {size_text(part_bytes[part])} |" for part in parts]
    return "\n".join(
        [
            "---",
            ModelCardData(**_metadata(label, source_card)).to_yaml(),
            "---",
            "",
            f"# {name}, {recipe.name}, for MLX",
            "",
            f"DiffusionGemma, converted from `{label}`{f' at revision `{revision}`' if revision else ''} with",
            f"mlx-diffusion {__version__} on MLX {version('mlx')}:",
            "",
            f"    {command(label, revision, recipe)}",
            *(
                [f"where `{RECIPE_FILE}` is the file of that name here, the formats of all groups of matrices."]
                * is_own(recipe)
            ),
            "",
            "| part of the model | kept as | size |",
            "|---|---|--:|",
            *rows,
            f"| **all** | | **{size_text(total)}** ({count_of(total, 'byte')}) |",
            "",
            "It runs with mlx-diffusion and with mlx-vlm:",
            "",
            f'    mlx-diffusion generate --model {OUTPUT} "Why is the sky blue?"',
            "",
        ]
    )


def command(label: str, revision: str | None, recipe: Recipe) -> str:
    """The command that converts the same source in the same way."""
    if is_own(recipe):
        return command_line(label, OUTPUT, RECIPE_FILE, (), revision=revision)
    return command_line(label, OUTPUT, recipe.name, map(rule_text, recipe.own), revision=revision)


def _metadata(label: str, source_card: bytes) -> dict[str, Any]:
    base = {"base_model": label, "base_model_relation": "quantized"} if HUB_ID.fullmatch(label) else {}
    tags = ["mlx", "mlx-diffusion", "diffusion_gemma"]
    return {**_carried(source_card), "library_name": "mlx-diffusion", "tags": tags, **base}


def _carried(source_card: bytes) -> dict[str, str]:
    """Licence and kind of model, from plain lines in the front matter of the source's card."""
    front = re.match(r"---\r?\n(.*?)\n---", source_card.decode("utf-8", "replace"), re.DOTALL)
    lines = (line.partition(":") for line in front[1].splitlines()) if front else ()
    fields = {key: value.strip().strip("'\"") for key, _, value in lines if key in CARRIED}
    return {key: value for key, value in fields.items() if value}


def _formats(part: str, made: Iterable[Piece]) -> str:
    """The formats of a part's tensors, the one with the most bytes first."""
    kept: Counter[str] = Counter()
    for piece in made:
        if piece.part == part:
            kept[spec_text(piece.spec)] += piece.nbytes
    return ", ".join(text for text, _ in kept.most_common())
