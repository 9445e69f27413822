"""Both spellings of config.json, and one clear line for each thing that is missing, odd or not supported."""

import copy
import json
from typing import Any

import pytest
from conftest import FIXTURES, config_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint.config import FULL, SLIDING, ModelConfig, Rope
from mlx_diffusion.errors import CheckpointError


def transformers_spelling(raw: dict[str, Any]) -> dict[str, Any]:
    """The same facts as recent Transformers writes them."""
    raw = copy.deepcopy(raw)
    text = raw["text_config"]
    sizes = {"head_dim": text.pop("global_head_dim"), "num_key_value_heads": text.pop("num_global_key_value_heads")}
    del text["final_logit_softcapping"]
    text["per_layer_config"] = {str(i): dict(sizes) for i, t in enumerate(text["layer_types"]) if t == FULL}
    return raw


def test_facts_are_read() -> None:
    config = ModelConfig.from_dict(config_dict())
    assert (config.vocab_size, config.hidden_size, config.canvas_length) == (64, 64, 8)
    assert config.layer_types == (SLIDING, SLIDING, FULL) and config.num_hidden_layers == 3
    assert config.head_shape(SLIDING) == (2, 16) and config.head_shape(FULL) == (1, 32)
    assert config.rope == {SLIDING: Rope(10000.0, 1.0), FULL: Rope(1000000.0, 0.25)}
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 2, (1,))
    assert config.quantization is None


def test_both_spellings_say_the_same() -> None:
    raw = config_dict()
    assert ModelConfig.from_dict(transformers_spelling(raw)) == ModelConfig.from_dict(raw)


def test_layer_indices_may_be_padded_with_zeros() -> None:
    raw = transformers_spelling(config_dict())
    raw["text_config"]["per_layer_config"] = {"02": {"head_dim": 32, "num_key_value_heads": 1}}
    assert ModelConfig.from_dict(raw).head_shape(FULL) == (1, 32)


def test_per_layer_config_leaves_out_what_does_not_differ() -> None:
    """Transformers drops an override that equals the layer-wide value."""
    raw = transformers_spelling(config_dict())
    raw["text_config"]["per_layer_config"] = {"2": {"head_dim": 32}}
    assert ModelConfig.from_dict(raw).head_shape(FULL) == (2, 32)


def test_null_global_kv_heads_are_those_of_sliding_layers() -> None:
    assert ModelConfig.from_dict(config_dict(num_global_key_value_heads=None)).head_shape(FULL) == (2, 32)


def test_recorded_checkpoints_are_read() -> None:
    for name in ("hub", "transformers", "two-full"):
        raw = json.loads((FIXTURES / name / "config.json").read_text())
        config = ModelConfig.from_dict(raw)
        assert config.head_shape(FULL) == (1, 16) and config.final_logit_softcapping == 30.0


@pytest.mark.parametrize(
    "field",
    ["pad_token_id", "attention_bias", "tie_word_embeddings", "hidden_activation", "use_bidirectional_attention"],
)
def test_null_and_a_missing_field_mean_what_transformers_means(field: str) -> None:
    raw = config_dict(**{field: None})
    absent = config_dict()
    del absent["text_config"][field]
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(absent) == ModelConfig.from_dict(config_dict())


@pytest.mark.parametrize("field", sorted(set(config_dict()["text_config"]) - {
    # Absent, these mean what Transformers' class means, and that is the only thing that is supported.
    "hidden_activation", "attention_bias", "use_bidirectional_attention", "tie_word_embeddings",
    "bos_token_id", "eos_token_id", "pad_token_id",
}))  # fmt: skip
def test_a_missing_field_is_named(field: str) -> None:
    raw = config_dict()
    del raw["text_config"][field]
    with pytest.raises(CheckpointError, match=rf"^/x/config\.json: .*{field}.* is missing"):
        ModelConfig.from_dict(raw, where="/x/config.json")


@pytest.mark.parametrize("field", ["canvas_length", "text_config"])
def test_a_missing_field_of_the_top_is_named(field: str) -> None:
    raw = config_dict()
    del raw[field]
    with pytest.raises(CheckpointError, match=f"{field} is missing"):
        ModelConfig.from_dict(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"hidden_size": 0}, "hidden_size = 0 must be at least 1"),
        ({"hidden_size": "64"}, "text_config.hidden_size is '64', expected int"),
        ({"hidden_size": True}, "text_config.hidden_size is True, expected int"),
        ({"vocab_size": None}, "text_config.vocab_size is None, expected int"),
        ({"head_dim": 15}, "head_dim = 15 must be even"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3 must divide num_attention_heads = 4"),
        ({"top_k_experts": 5}, "top_k_experts = 5 must be at most num_experts = 4"),
        ({"sliding_window": -1}, "sliding_window = -1 must be at least 1"),
        ({"rms_norm_eps": 0}, "rms_norm_eps = 0.0 must be above 0"),
        ({"final_logit_softcapping": 0}, "final_logit_softcapping = 0.0 must be above 0"),
        ({"eos_token_id": [1, 64]}, "eos_token_id = 64 must be below vocab_size = 64"),
        ({"eos_token_id": "1"}, "eos_token_id is '1', expected an id or a list of ids"),
        ({"layer_types": [SLIDING, FULL]}, "layer_types has 2 entries, num_hidden_layers is 3"),
        ({"layer_types": [SLIDING, "chunked", FULL]}, "layer_types holds 'chunked'"),
        ({"layer_types": [FULL, FULL, SLIDING]}, "layer_types must end with 'full_attention'"),
        ({"layer_types": [], "num_hidden_layers": 0}, "layer_types must end with 'full_attention'"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"tie_word_embeddings": False}, "text_config.tie_word_embeddings = False is not supported"),
        ({"hidden_activation": "silu"}, "hidden_activation = 'silu' is not supported"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention = 'all' is not supported"),
        ({"per_layer_config": {"9": {"head_dim": 2}}}, "per_layer_config has the entry '9'"),
        ({"per_layer_config": {"2": {"sliding_window": 2}}}, "per_layer_config.2 sets sliding_window"),
        ({"per_layer_config": {"0": {"head_dim": 8}}}, "gives layers of one type different sizes"),
        ({"per_layer_config": {"9" * 5000: {"head_dim": 2}}}, "per_layer_config has the entry '999"),
        ({"sliding_window": 2**31}, "text_config.sliding_window = 2147483648 is beyond 2147483647"),
        ({"num_experts": 2.0}, "text_config.num_experts is 2.0, expected int"),
        ({"rms_norm_eps": 10**400}, "is beyond the largest float32"),
        ({"final_logit_softcapping": float("inf")}, "final_logit_softcapping = inf is beyond the largest float32"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan is beyond the largest float32"),
        ({"max_position_embeddings": 7}, "canvas_length = 8 must be at most 7"),
        ({"layer_types": [FULL] * 1001, "num_hidden_layers": 1001}, "num_hidden_layers = 1001 is beyond 1000"),
    ],
)
def test_odd_values_are_refused_by_name(text: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_dict(config_dict(**text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer_type", "rope", "message"),
    [
        (FULL, {"rope_type": "yarn"}, "full_attention.rope_type = 'yarn' is not supported"),
        (FULL, {"rope_theta": 0}, "full_attention.rope_theta = 0.0 must be above 0"),
        (FULL, {"partial_rotary_factor": 1.5}, "partial_rotary_factor = 1.5 must be above 0 and at most 1"),
        (FULL, {"factor": 8.0}, "full_attention.factor = 8.0 is not supported"),
        (SLIDING, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
    ],
)
def test_other_ropes_are_refused_by_name(layer_type: str, rope: dict[str, Any], message: str) -> None:
    raw = config_dict()
    raw["text_config"]["rope_parameters"][layer_type].update(rope)
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_dict(raw)


@pytest.mark.parametrize("length", [0, -4])
def test_canvas_of_no_length(length: int) -> None:
    with pytest.raises(CheckpointError, match=f"canvas_length = {length} must be at least 1"):
        ModelConfig.from_dict(config_dict() | {"canvas_length": length})


def test_other_models_are_named() -> None:
    with pytest.raises(CheckpointError, match="model_type is 'gemma4'"):
        ModelConfig.from_dict({"model_type": "gemma4"})
    with pytest.raises(CheckpointError, match="model_type is None"):
        ModelConfig.from_dict({})


@settings(suppress_health_check=[HealthCheck.too_slow])  # the strategy is drawn slowly on a busy machine
@given(st.dictionaries(st.sampled_from(sorted(config_dict()["text_config"])), st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.text(max_size=3), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1), st.floats(),
), max_size=3))  # fmt: skip
def test_any_config_is_read_or_refused_in_one_line(text: dict[str, Any]) -> None:
    try:
        ModelConfig.from_dict(config_dict(**text))
    except CheckpointError as error:
        assert "\n" not in str(error)
