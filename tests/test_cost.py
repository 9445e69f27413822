"""What a step costs: counts worked out by hand on a tiny configuration, and the published sizes of the real one."""

from __future__ import annotations

import json

import pytest
from conftest import FIXTURES, config_dict, model_of

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.checkpoint.tensor_names import DECODER
from mlx_diffusion.fit.cost import encode_cost, parameter_bytes, step_cost
from mlx_diffusion.fit.products import (
    ATTENTION,
    CONDITIONING,
    DENSE,
    EXPERTS,
    HEAD,
    PROJECTIONS,
    ROUTER,
    SAMPLER,
    SOFT,
    experts_touched,
    formats_of,
    matrix_bytes,
)

REAL = ModelConfig.from_dict(json.loads((FIXTURES / "real_config" / "config.json").read_text()))
# D 64, V 64, L 8, window 6, H 4; one sliding layer (K 2, S 16) and one full one (K 1, S 32); E 4, A 2, F 32.
TINY = ModelConfig.from_dict(config_dict(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]))
AFFINE = QuantSpec(32, 4, "affine")
TOUCHED = 4 * (1 - 0.5**8)  # of four experts, by eight tokens that take two each


def plain(path: str) -> None:
    return None


def test_a_step_by_hand() -> None:
    """Eight positions behind ten tokens: the sliding layer sees five of them, the full one all."""
    cost = step_cost(TINY, plain, 10, 4)
    assert cost.flops() == {
        ATTENTION: 2 * 2 * 4 * (8 * (5 + 8) * 16 + 8 * (10 + 8) * 32),
        PROJECTIONS: 2 * 8 * 64 * ((64 + 32 + 32 + 64) + (128 + 32 + 128)),
        DENSE: 2 * (2 * 8 * 3 * 64 * 64),
        ROUTER: 2 * (2 * 8 * 64 * 4),
        EXPERTS: 2 * (2 * 8 * 2 * (64 * 64 + 32 * 64)),
        CONDITIONING: 2 * 8 * 3 * 64 * 64,
        HEAD: 2 * 8 * 64 * 64,
        SOFT: 2 * 8 * 64 * 64,
        SAMPLER: 12 * 8 * 64,
    }
    assert cost.nbytes() == {
        ATTENTION: 4 * (2 * 2 * 16 * 5 + 2 * 1 * 32 * 10),
        PROJECTIONS: 4 * 64 * ((64 + 32 + 32 + 64) + (128 + 32 + 128)),
        DENSE: 4 * 2 * 3 * 64 * 64,
        ROUTER: 4 * 2 * 64 * 4,
        EXPERTS: round(4 * 2 * TOUCHED * 64 * 64) + round(4 * 2 * TOUCHED * 32 * 64),
        CONDITIONING: 4 * 3 * 64 * 64,
        HEAD: 4 * 64 * 64,  # and the soft embedding, which reads the same rows
    }


def test_quantised_matrices_are_read_as_they_are_packed() -> None:
    half_byte_and_two_scales = 64 * 64 // 2 + 64 * 64 // 32 * 2 * 4
    assert matrix_bytes(64, 64, AFFINE, 4) == half_byte_and_two_scales
    assert matrix_bytes(64, 64, QuantSpec(32, 4, "mxfp4"), 4) == 64 * 64 // 2 + 64 * 64 // 32
    dense = step_cost(TINY, lambda path: AFFINE if ".mlp." in path else None, 10, 4).nbytes()[DENSE]
    assert dense == 2 * 3 * half_byte_and_two_scales


def test_encoding_by_hand() -> None:
    """Four tokens behind three: of the last layer keys alone (its values are they), of a window of six what is seen."""
    cost = encode_cost(TINY, plain, 4, 3, 4)
    assert cost.flops() == {
        ATTENTION: 2 * 2 * 4 * 16 * (4 + 5 + 6 + 6),
        PROJECTIONS: 2 * 4 * 64 * ((64 + 32 + 32 + 64) + 32),
        DENSE: 2 * 4 * 3 * 64 * 64,
        ROUTER: 2 * 4 * 64 * 4,
        EXPERTS: 2 * 4 * 2 * (64 * 64 + 32 * 64),
    }


@pytest.mark.parametrize(("prefix", "tokens"), [(0, 3), (0, 9), (3, 4), (5, 1), (20, 7)])
def test_a_prompt_costs_the_same_attention_in_one_part_and_in_many(prefix: int, tokens: int) -> None:
    whole = encode_cost(TINY, plain, tokens, prefix, 4).attention_flops
    assert whole == sum(encode_cost(TINY, plain, 1, prefix + n, 4).attention_flops for n in range(tokens))


def test_experts_that_are_touched() -> None:
    assert experts_touched(128, 8, 1) == pytest.approx(8)
    assert experts_touched(4, 4, 3) == 4
    assert 127.9 < experts_touched(128, 8, 256) < 128


def test_the_real_model_in_4_bits() -> None:
    """A token of the real model passes through some 3.8 billion parameters; a canvas reads nearly all of them."""
    recipe = RECIPES["4bit"]
    cost = step_cost(REAL, lambda path: recipe.spec(DECODER + path), 4096, 2)
    flops = cost.flops()
    a_position = {part: amount / (2 * 256) for part, amount in flops.items()}
    assert a_position[EXPERTS] == 30 * 8 * 3 * 704 * 2816
    assert a_position[HEAD] == a_position[SOFT] == 262_144 * 2816
    active = sum(a_position[part] for part in (PROJECTIONS, DENSE, ROUTER, EXPERTS, CONDITIONING, HEAD))
    assert 3.7e9 < active < 3.9e9
    experts, text = 22.838e9 * (4 + 2 * 16 / 32) / 8, 2.4e9 * (8 + 2 * 16 / 64) / 8
    assert cost.total_bytes == pytest.approx(experts + text + 20 * 1024 * 4096 + 25 * 2 * 8 * 256 * 2 * 1023, rel=0.02)


def test_formats_are_those_in_memory() -> None:
    model = model_of(FIXTURES / "hub")
    assert formats_of(model)("embed_tokens") is None
    read_once = step_cost(model.config, formats_of(model), 0, 4)
    touched_all = read_once.total_bytes / parameter_bytes(model)
    assert 0.8 < touched_all <= 1, "a canvas reads what there is, but for norms and experts that nobody chose"
