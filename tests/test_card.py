"""The card of a conversion."""

import json
import shlex

import pytest
from conftest import config_dict
from huggingface_hub import ModelCard

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.pieces import apply_recipe, bytes_by_part
from mlx_diffusion.checkpoint.recipes import RECIPES, Recipe
from mlx_diffusion.checkpoint.text_tensors import text_tensors
from mlx_diffusion.cli.main import build_parser
from mlx_diffusion.convert.card import card, command

CONFIG = ModelConfig.from_dict(config_dict(moe_intermediate_size=64))
TENSORS = text_tensors(CONFIG)
OWN = RECIPES["4bit"].with_rules(["*.self_attn.*=6", "*.layers.1.experts.*=mxfp4", "*.router.proj=bf16"])
SOURCE_CARD = (
    b"---\nlicense: other\nlicense_name: terms\nlicense_link: https://example.org\ntags:\n- x\n---\n# Source\n"
)


def card_of(label: str, revision: str | None, source_card: bytes, recipe: Recipe) -> str:
    made = apply_recipe(TENSORS, recipe)
    return card(label, revision, source_card, recipe, made, bytes_by_part(made))


def test_metadata_name_the_source_and_carry_its_licence() -> None:
    text = card_of("owner/name", "abc", SOURCE_CARD, OWN)
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "owner/name" and data["base_model_relation"] == "quantized"
    assert [data[key] for key in ("license", "license_name", "license_link")] == [
        "other", "terms", "https://example.org",
    ]  # fmt: skip
    assert data["library_name"] == "mlx-diffusion" and "x" not in data["tags"]


@pytest.mark.parametrize("source_card", [b"", b"no front matter", b"---\n: [\n---\n", b"\xff"])
def test_a_source_without_a_readable_card_gives_no_licence(source_card: bytes) -> None:
    recipe = RECIPES["bf16"]
    data = ModelCard(card_of("/a/folder", None, source_card, recipe)).data.to_dict()
    assert "license" not in data and "base_model" not in data


def test_source_formats_sizes_and_command_are_told() -> None:
    made = apply_recipe(TENSORS, OWN)
    text = card_of("owner/name", "abc", b"", OWN)
    assert "from `owner/name` at revision `abc`" in text
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "6 bits, groups of 64" in lines["attention"] and "| bf16 |" in lines["router"]
    assert "4 bits, groups of 32, mxfp4" in lines["experts"] and "vision" not in lines
    assert f"({sum(bytes_by_part(made).values()):,} bytes)" in lines["**all**"]
    assert f"    {command('owner/name', 'abc', OWN)}\n" in text


def test_the_command_converts_alike() -> None:
    words = shlex.split(command("owner/name", "abc", OWN))
    args = build_parser().parse_args(words[1:])
    assert (args.source, args.revision, args.recipe) == ("owner/name", "abc", "4bit")
    again: Recipe = RECIPES[args.recipe].with_rules(args.set)
    assert again == OWN
    assert json.dumps(words)  # no path of this machine, no date: it is the same everywhere
