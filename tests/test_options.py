"""What a user may ask for, what a checkpoint may say, and which of them wins."""

import copy
import dataclasses
import json
import math
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.option_keywords import GenerationOptions
from mlx_diffusion.options import DEFAULTS, NAMES, GenerationConfig, Settings

HUB = {
    "max_new_tokens": 128,
    "max_denoising_steps": 24,
    "sampler_config": {"entropy_bound": 0.2, "_cls_name": "EntropyBoundSamplerConfig"},
    "t_min": 0.3,
    "t_max": 0.9,
    "stability_threshold": 2,
    "confidence_threshold": 0.01,
    "eos_token_id": [1, 106, 50],
    "pad_token_id": 0,
    "transformers_version": "5.23.0",
}


def write(folder: Path, generation: object = None, config: object = None) -> Path:
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        if content is not None:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_three_lists_of_options_agree() -> None:
    assert [field.name for field in dataclasses.fields(GenerationConfig)] == list(NAMES)
    assert list(GenerationOptions.__annotations__) == list(NAMES)
    assert [field.name for field in dataclasses.fields(Settings)] == list(NAMES)


def test_a_checkpoint_names_its_defaults(tmp_path: Path) -> None:
    settings = GenerationConfig.from_checkpoint(write(tmp_path, HUB)).resolve()
    assert settings == Settings(128, 24, 0.2, 0.3, 0.9, 2, 0.01, 0, "reference", (1, 106, 50), 2048)


def test_without_a_file_the_documented_defaults_hold(tmp_path: Path) -> None:
    assert GenerationConfig.from_checkpoint(tmp_path).resolve() == DEFAULTS
    assert Settings(256, 48, 0.1, 0.4, 0.8, 1, 0.005, 0, "reference", (), 2048) == DEFAULTS


def test_null_in_the_file_means_the_documented_default(tmp_path: Path) -> None:
    assert GenerationConfig.from_checkpoint(write(tmp_path, dict.fromkeys(HUB))).resolve() == DEFAULTS


@pytest.mark.parametrize("config", [{"eos_token_id": 1}, {"text_config": {"eos_token_id": [1]}}])
def test_stop_tokens_may_stand_in_config_json(tmp_path: Path, config: dict[str, Any]) -> None:
    assert GenerationConfig.from_checkpoint(write(tmp_path, {}, config)).eos_token_id == (1,)
    assert GenerationConfig.from_checkpoint(write(tmp_path, {"eos_token_id": 9}, config)).eos_token_id == (9,)


@pytest.mark.parametrize(
    ("generation", "named"),
    [
        ("{", "JSON"),
        ("[]", "JSON"),
        ({"t_min": 0.9, "t_max": 0.8}, "t_max"),
        ({"max_new_tokens": 0}, "max_tokens is 0"),
        ({"sampler_config": {"entropy_bound": 0.1, "_cls_name": "TopKSamplerConfig"}}, "TopKSamplerConfig"),
        ({"sampler_config": "entropy"}, "sampler_config"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, generation: object, named: str) -> None:
    with pytest.raises(CheckpointError) as error:
        GenerationConfig.from_checkpoint(write(tmp_path, generation))
    assert named in str(error.value) and "generation_config.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_call_wins_over_the_config_and_the_config_over_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = GenerationConfig.from_checkpoint(write(tmp_path, HUB))
    wishes = GenerationConfig(t_min=0.1, seed=5).override({"seed": 6, "t_max": None})
    settings = checkpoint.resolve(wishes)
    assert (settings.t_min, settings.t_max, settings.seed, settings.max_tokens) == (0.1, 0.9, 6, 128)


def test_bounds_between_options_hold_after_resolving() -> None:
    with pytest.raises(OptionError, match=r"t_max is 0.8 and t_min is 0.9"):
        GenerationConfig(t_max=0.8).resolve(GenerationConfig(t_min=0.9))


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"max_tokens": True},
        {"max_tokens": 2.0},
        {"max_tokens": "5"},
        {"max_denoising_steps": 0},
        {"entropy_bound": 0},
        {"entropy_bound": -0.1},
        {"entropy_bound": math.nan},
        {"entropy_bound": math.inf},
        {"entropy_bound": False},
        {"t_min": -0.1},
        {"t_max": 10**400},
        {"t_min": 0.5, "t_max": 0.5},
        {"stability_threshold": -1},
        {"stability_threshold": 1.0},
        {"max_tokens": 2**63},
        {"logit_bias": {"9" * 5000: 1.0}},
        {"max_denoising_steps": 10**400},
        {"t_max": Fraction(10**400)},
        {"confidence_threshold": 0.0},
        {"seed": -1},
        {"mode": "quick"},
        {"eos_token_id": [1, -2]},
        {"eos_token_id": [None]},
        {"eos_token_id": "stop"},
    ],
)
def test_a_value_out_of_bounds_is_one_line_that_names_it(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as error:
        GenerationConfig(**options)
    message = str(error.value)
    assert next(iter(options)) in message and "must be" in message and "\n" not in message


@pytest.mark.parametrize("options", [{"t_min": 0}, {"stability_threshold": 0}, {"seed": 2**70}, {"eos_token_id": ()}])
def test_values_at_the_bounds_are_taken(options: dict[str, Any]) -> None:
    assert getattr(GenerationConfig(**options), next(iter(options))) == next(iter(options.values()))


def test_a_config_survives_copies() -> None:
    config = GenerationConfig(seed=3, eos_token_id=(1, 2))
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == dataclasses.replace(config) == config
    assert dataclasses.replace(config, seed=4).seed == 4


def test_one_stop_token_needs_no_list() -> None:
    assert GenerationConfig(eos_token_id=7).eos_token_id == (7,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("max_token", "max_tokens"), ("max_new_tokens", "max_tokens"), ("entropy", "entropy_bound"), ("tmin", "t_min")],
)
def test_an_unknown_option_names_the_nearest(wrong: str, right: str) -> None:
    options: dict[str, Any] = {wrong: 1}
    with pytest.raises(TypeError, match=rf"unknown option '{wrong}'; the nearest is '{right}'"):
        GenerationConfig(**options)
    with pytest.raises(TypeError, match=right):
        GenerationConfig().override({wrong: 1})


@pytest.mark.parametrize("wrong", ["heat", "temp", "model_name", "max", "max_length", ""])
def test_what_is_near_to_no_option_is_compared_with_none(wrong: str) -> None:
    with pytest.raises(TypeError, match="unknown option") as error:
        GenerationConfig().override({wrong: 1})
    assert "nearest" not in str(error.value) and "max_tokens" in str(error.value)


def test_numbers_of_numpy_are_numbers() -> None:
    numbers: dict[str, Any] = {"max_tokens": np.int64(5), "t_min": np.float32(0.5), "t_max": np.float64(0.75)}
    numbers |= {"eos_token_id": np.array([1, 6]), "seed": np.uint8(3), "entropy_bound": np.float16(0.25)}
    config = GenerationConfig(**numbers)
    plain = GenerationConfig(max_tokens=5, t_min=0.5, t_max=0.75, eos_token_id=(1, 6), seed=3, entropy_bound=0.25)
    assert config == plain and repr(config) == repr(plain)
    for wrong in (np.bool_(True), np.array([1, 2]), np.float32(1.5), np.array("1")):
        with pytest.raises(OptionError, match="whole number"):
            GenerationConfig(max_tokens=wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="finite"):
        GenerationConfig(entropy_bound=np.float64("nan"))


@given(st.text(max_size=20).filter(lambda name: name not in NAMES))
def test_any_unknown_name_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError, match="unknown option"):
        GenerationConfig().override({name: 1})
