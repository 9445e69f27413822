"""Recipes: which rule counts, what --set accepts, and the sizes that the recipes promise."""

import pytest

from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, RECIPES, parse_rule, recipe_named, rule_text
from mlx_diffusion.errors import OptionError

ATTENTION = "model.decoder.layers.0.self_attn.q_proj"
GATE_UP = "model.decoder.layers.29.experts.gate_up_proj"
DOWN = "model.decoder.layers.29.experts.down_proj"


def test_the_last_rule_that_fits_counts() -> None:
    plain = recipe_named(DEFAULT_RECIPE)
    assert plain.spec(GATE_UP) == QuantSpec(32, 4, "affine")
    assert plain.spec(ATTENTION) == QuantSpec(64, 8, "affine")
    own = plain.with_rules(["*.experts.*=3", "*.layers.29.*=bf16", "*.down_proj=mxfp4"])
    assert own.spec(GATE_UP) is None
    assert own.spec(DOWN) == QuantSpec(32, 4, "mxfp4")
    assert own.spec("model.decoder.layers.2.experts.gate_up_proj") == QuantSpec(64, 3, "affine")
    assert plain.spec(GATE_UP) == QuantSpec(32, 4, "affine"), "the table itself has changed"


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "bf16"])
def test_what_every_token_passes_is_kept_higher_than_experts(name: str) -> None:
    attention, experts = RECIPES[name].spec(ATTENTION), RECIPES[name].spec(GATE_UP)
    assert attention is not None
    assert experts is not None
    assert attention.bits >= max(6, experts.bits)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("*.self_attn.*=6", ("*.self_attn.*", QuantSpec(64, 6, "affine"))),
        ("*.experts.*=4,32", ("*.experts.*", QuantSpec(32, 4, "affine"))),
        ("* = 5 , 128 , affine", ("*", QuantSpec(128, 5, "affine"))),
        ("*=mxfp8", ("*", QuantSpec(32, 8, "mxfp8"))),
        ("*=4,16,nvfp4", ("*", QuantSpec(16, 4, "nvfp4"))),
        ("*=4,nvfp4", ("*", QuantSpec(16, 4, "nvfp4"))),
        ("*=4,fitted", ("*", QuantSpec(64, 4, "affine", fitted=True))),
        ("*=3,32,affine,fitted", ("*", QuantSpec(32, 3, "affine", fitted=True))),
        ("*=bf16", ("*", None)),
        ("*=16", ("*", None)),
    ],
)
def test_rules_of_users(text: str, rule: tuple[str, QuantSpec | None]) -> None:
    assert parse_rule(text) == rule
    assert parse_rule(rule_text(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        *("", "=4", "*", "*=", "*=affine", "*=7", "*=4,48", "*=4,32,fp4", "*=5,mxfp4", "*=4,32,affine,1", "*=4,,64"),
        *("*=fitted", "*=bf16,fitted", "*=16,fitted", "*=mxfp4,fitted", "*=fitted,4", "*=4,32,affine,1,fitted"),
    ],
)
def test_a_rule_that_says_nothing_is_one_line(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_rule(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean '4bit-small'"):
        recipe_named("4bit_small")
