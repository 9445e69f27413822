"""Reads config.json field by field: every field is checked for its kind, and none gets a default.

Two spellings of the full layers' sizes are read: `global_head_dim` with `num_global_key_value_heads` (the Hub's) and
`per_layer_config` (recent Transformers). A setting that would change the computation in a way that is not built is
refused by name. Knows nothing of what the numbers are for. All errors are CheckpointErrors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError

LayerType = Literal["sliding_attention", "full_attention"]
SLIDING: LayerType = "sliding_attention"
FULL: LayerType = "full_attention"

WHOLE_NUMBERS = (
    "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_experts", "top_k_experts", "sliding_window", "max_position_embeddings",
)  # fmt: skip
# Transformers keeps this as a constant of its class and leaves it out of what it saves; the Hub's file spells it.
TRANSFORMERS_SOFTCAP = 30.0
# Its class's padding, where a file names none or null: it decides which token is shown as no text, nothing else.
TRANSFORMERS_PAD = 0
LARGEST_WHOLE = 2**31 - 1  # MLX counts entries and tokens by int32
LARGEST_FLOAT = 3.4e38  # of float32


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of one layer type: the base θ and the share of the head that turns."""

    theta: float
    rotated: float


def read_config_json(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ModelConfig` by name, all but the quantization. Raises CheckpointError."""
    model_type = raw.get("model_type")
    if model_type != "diffusion_gemma":
        raise CheckpointError(
            f"model_type is {model_type!r}, this library runs 'diffusion_gemma' only; other models run in mlx-lm"
        )
    text = read_field(raw, "text_config", dict)
    refuse_others(raw, "", (("tie_word_embeddings", (True,)),))
    refuse_others(
        text,
        "text_config.",
        (
            ("tie_word_embeddings", (True,)),
            ("attention_bias", (False,)),
            ("hidden_activation", ("gelu_pytorch_tanh",)),
            ("use_bidirectional_attention", ("vision", None)),
        ),
    )
    layer_types = _layer_types(text)
    global_head_dim, global_kv_heads = _full_layer_sizes(text, layer_types)
    return {
        **{name: read_field(text, name, int) for name in WHOLE_NUMBERS},
        "global_head_dim": global_head_dim,
        "num_global_key_value_heads": global_kv_heads,
        "layer_types": layer_types,
        "rope": _rope(text, layer_types),
        "rms_norm_eps": read_field(text, "rms_norm_eps", float),
        "final_logit_softcapping": _softcap(text),
        "canvas_length": read_field(raw, "canvas_length", int, prefix=""),
        "pad_token_id": TRANSFORMERS_PAD if text.get("pad_token_id") is None else read_field(text, "pad_token_id", int),
        "bos_token_id": None if text.get("bos_token_id") is None else read_field(text, "bos_token_id", int),
        "eos_token_id": _eos(text),
    }


def _layer_types(text: Mapping[str, Any]) -> tuple[LayerType, ...]:
    names = read_field(text, "layer_types", list)
    for name in names:
        if name not in (SLIDING, FULL):
            raise CheckpointError(f"text_config.layer_types holds {name!r}, known are {SLIDING!r} and {FULL!r}")
    count = read_field(text, "num_hidden_layers", int)
    if len(names) != count:
        raise CheckpointError(
            f"text_config.layer_types has {count_of(len(names), 'entry')}, num_hidden_layers is {count}: they must "
            "be equal"
        )
    if names[-1:] != [FULL]:
        raise CheckpointError(f"text_config.layer_types must end with {FULL!r}, Transformers runs nothing else")
    return tuple(names)


def _full_layer_sizes(text: Mapping[str, Any], layer_types: tuple[LayerType, ...]) -> tuple[int, int]:
    """(S, K) of the full layers from either spelling; where both stand, per_layer_config wins, as in Transformers."""
    if "per_layer_config" not in text:
        head_dim = read_field(text, "global_head_dim", int)
        if text.get("num_global_key_value_heads", 0) is None:  # null: as many as in sliding layers
            return head_dim, read_field(text, "num_key_value_heads", int)
        return head_dim, read_field(text, "num_global_key_value_heads", int)
    sizes: dict[LayerType, set[tuple[int, int]]] = {SLIDING: set(), FULL: set()}
    overrides = _per_layer(text, len(layer_types))
    for index, layer_type in enumerate(layer_types):
        merged = {**text, **overrides.get(index, {})}
        sizes[layer_type].add((read_field(merged, "head_dim", int), read_field(merged, "num_key_value_heads", int)))
    plain = (read_field(text, "head_dim", int), read_field(text, "num_key_value_heads", int))
    if len(sizes[FULL]) > 1 or sizes[SLIDING] - {plain}:
        raise CheckpointError("text_config.per_layer_config gives layers of one type different sizes: not supported")
    return next(iter(sizes[FULL]), plain)


def _per_layer(text: Mapping[str, Any], count: int) -> dict[int, dict[str, Any]]:
    overrides = {}
    for key, values in read_field(text, "per_layer_config", dict).items():
        if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= count or not isinstance(values, dict):
            raise CheckpointError(
                f"text_config.per_layer_config has the entry {key!r}: expected layer indices below {count} with sizes"
            )
        unknown = sorted(set(values) - {"head_dim", "num_key_value_heads"})
        if unknown:
            raise CheckpointError(f"text_config.per_layer_config.{key} sets {unknown[0]}: not supported")
        overrides[int(key)] = values
    return overrides


def _rope(text: Mapping[str, Any], layer_types: tuple[LayerType, ...]) -> dict[LayerType, Rope]:
    table = read_field(text, "rope_parameters", dict)
    ropes = {}
    for layer_type in sorted(set(layer_types)):
        prefix = f"text_config.rope_parameters.{layer_type}."
        raw = read_field(table, layer_type, dict)
        kind = read_field(raw, "rope_type", str, prefix)
        theta = read_field(raw, "rope_theta", float, prefix)
        if kind == "default":
            rotated = 1.0
            refuse_others(raw, prefix, (("partial_rotary_factor", (1.0,)),))
        elif kind == "proportional":
            rotated = read_field(raw, "partial_rotary_factor", float, prefix)
            refuse_others(raw, prefix, (("factor", (1.0,)),))
        else:
            raise CheckpointError(f"{prefix}rope_type = {kind!r} is not supported, known are default and proportional")
        require(theta > 0, prefix + "rope_theta", theta, "must be above 0")
        require(0 < rotated <= 1, prefix + "partial_rotary_factor", rotated, "must be above 0 and at most 1")
        ropes[layer_type] = Rope(theta, rotated)
    return ropes


def _softcap(text: Mapping[str, Any]) -> float:
    if "final_logit_softcapping" not in text and "per_layer_config" in text:
        return TRANSFORMERS_SOFTCAP
    cap: float = read_field(text, "final_logit_softcapping", float)
    return cap


def _eos(text: Mapping[str, Any]) -> tuple[int, ...]:
    value = text.get("eos_token_id")
    ids = tuple(value) if isinstance(value, list) else () if value is None else (value,)
    if not all(type(i) is int for i in ids):
        raise CheckpointError(f"the field text_config.eos_token_id is {value!r}, expected an id or a list of ids")
    return ids


def read_field(table: Mapping[str, Any], name: str, kind: type, prefix: str = "text_config.") -> Any:
    """The value of a field that must be of this kind: a whole number is a float too, a bool is no number.

    Numbers must fit into MLX's own: int32 and float32. Raises CheckpointError.
    """
    label = name if kind is dict else prefix + name
    if name not in table:
        raise CheckpointError(f"the field {label} is missing; sizes are never guessed")
    value = table[name]
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or isinstance(value, bool):
        raise CheckpointError(f"the field {label} is {value!r}, expected {kind.__name__}")
    if kind is int:
        require(abs(value) <= LARGEST_WHOLE, label, value, f"is beyond {LARGEST_WHOLE}, the largest int32")
    if kind is float:
        require(abs(value) <= LARGEST_FLOAT, label, value, "is beyond the largest float32")
        return float(value)
    return value


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Refuse a value that breaks a rule."""
    if not holds:
        raise CheckpointError(f"{name} = {value!r} {rule}")


def refuse_others(table: Mapping[str, Any], prefix: str, rules: tuple[tuple[str, tuple[object, ...]], ...]) -> None:
    """Refuse values that are not allowed; a missing field, or null, is the first allowed one, as in Transformers."""
    for name, allowed in rules:
        value = allowed[0] if table.get(name) is None else table[name]
        if value not in allowed:
            raise CheckpointError(f"{prefix}{name} = {value!r} is not supported, only {allowed[0]!r} is")
