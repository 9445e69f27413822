"""The facts of a checkpoint: config.json read into one frozen dataclass, checked once, never defaulted.

Two spellings of the full layers' sizes are read: `global_head_dim` with `num_global_key_value_heads` (the Hub's) and
`per_layer_config` (recent Transformers). What would change the computation and is not built is refused by name.
Knows nothing of tensors, files on disk or a user's wishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import CheckpointError

LayerType = Literal["sliding_attention", "full_attention"]
SLIDING: LayerType = "sliding_attention"
FULL: LayerType = "full_attention"

# Transformers keeps this as a constant of its class and leaves it out of what it saves; the Hub's file spells it.
TRANSFORMERS_SOFTCAP = 30.0

# Group size and bits that MLX allows in a mode; affine takes any pair of the two lists.
AFFINE_GROUPS, AFFINE_BITS = (32, 64, 128), (2, 3, 4, 5, 6, 8)
FIXED_MODES = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of one layer type: the base θ and the share of the head that turns."""

    theta: float
    rotated: float


@dataclass(frozen=True)
class QuantSpec:
    """How one matrix is quantised."""

    group_size: int
    bits: int
    mode: str

    def __post_init__(self) -> None:
        pair = (self.group_size, self.bits)
        if self.mode == "affine":
            if self.group_size not in AFFINE_GROUPS or self.bits not in AFFINE_BITS:
                raise CheckpointError(
                    f"quantization: affine with group_size {self.group_size} and bits {self.bits} is not supported, "
                    f"take a group_size of {AFFINE_GROUPS} and bits of {AFFINE_BITS}"
                )
        elif self.mode not in FIXED_MODES:
            raise CheckpointError(
                f"quantization: unknown mode {self.mode!r}, known are affine, {', '.join(FIXED_MODES)}"
            )
        elif pair != FIXED_MODES[self.mode]:
            raise CheckpointError(
                f"quantization: {self.mode} has group_size and bits {FIXED_MODES[self.mode]}, the config says {pair}"
            )


@dataclass(frozen=True)
class Quantization:
    """The checkpoint's default and what single paths say instead; None means that path is left as it was."""

    default: QuantSpec
    overrides: Mapping[str, QuantSpec | None] = field(default_factory=dict)

    def of(self, path: str) -> QuantSpec | None:
        return self.overrides.get(path, self.default)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one checkpoint. Letters: V D H K S E A F L as in the shape vocabulary."""

    vocab_size: int  # V
    hidden_size: int  # D
    intermediate_size: int
    moe_intermediate_size: int  # F
    num_attention_heads: int  # H
    num_key_value_heads: int  # K in sliding layers
    num_global_key_value_heads: int  # K in full layers
    head_dim: int  # S in sliding layers
    global_head_dim: int  # S in full layers
    num_experts: int  # E
    top_k_experts: int  # A
    sliding_window: int
    layer_types: tuple[LayerType, ...]
    rope: Mapping[LayerType, Rope]
    rms_norm_eps: float
    final_logit_softcapping: float
    max_position_embeddings: int
    canvas_length: int  # L
    pad_token_id: int
    bos_token_id: int | None
    eos_token_id: tuple[int, ...]
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads",
            "num_key_value_heads", "num_global_key_value_heads", "head_dim", "global_head_dim", "num_experts",
            "top_k_experts", "sliding_window", "max_position_embeddings", "canvas_length",
        ):  # fmt: skip
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("head_dim", "global_head_dim"):
            _require(getattr(self, name) % 2 == 0, name, getattr(self, name), "must be even, RoPE turns pairs")
        for name in ("num_key_value_heads", "num_global_key_value_heads"):
            _require(
                self.num_attention_heads % getattr(self, name) == 0,
                name, getattr(self, name), f"must divide num_attention_heads = {self.num_attention_heads}",
            )  # fmt: skip
        _require(
            self.top_k_experts <= self.num_experts,
            "top_k_experts", self.top_k_experts, f"must be at most num_experts = {self.num_experts}",
        )  # fmt: skip
        for name in ("rms_norm_eps", "final_logit_softcapping"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        tokens = {"pad_token_id": (self.pad_token_id,), "eos_token_id": self.eos_token_id}
        tokens["bos_token_id"] = () if self.bos_token_id is None else (self.bos_token_id,)
        for name, ids in tokens.items():
            for token in ids:
                _require(0 <= token < self.vocab_size, name, token, f"must be below vocab_size = {self.vocab_size}")

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layer_types)

    def head_shape(self, layer_type: LayerType) -> tuple[int, int]:
        """(K, S) of a layer: its KV heads and head size."""
        if layer_type == SLIDING:
            return self.num_key_value_heads, self.head_dim
        return self.num_global_key_value_heads, self.global_head_dim

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Read config.json's dict; `where` names the file in errors (all of them CheckpointError)."""
        try:
            return _read(raw)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from None


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise CheckpointError(f"{name} = {value!r} {rule}")


def _read(raw: Mapping[str, Any]) -> ModelConfig:
    model_type = raw.get("model_type")
    if model_type != "diffusion_gemma":
        raise CheckpointError(
            f"model_type is {model_type!r}, this library runs 'diffusion_gemma' only; other models run in mlx-lm"
        )
    text = _get(raw, "text_config", dict)
    _refuse(raw, "", (("tie_word_embeddings", (True,)),))
    _refuse(
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
    return ModelConfig(
        **{name: _get(text, name, int) for name in (
            "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads",
            "num_key_value_heads", "head_dim", "num_experts", "top_k_experts", "sliding_window",
            "max_position_embeddings", "pad_token_id",
        )},
        global_head_dim=global_head_dim,
        num_global_key_value_heads=global_kv_heads,
        layer_types=layer_types,
        rope=_rope(text, layer_types),
        rms_norm_eps=_get(text, "rms_norm_eps", float),
        final_logit_softcapping=_softcap(text),
        canvas_length=_get(raw, "canvas_length", int, prefix=""),
        bos_token_id=None if text.get("bos_token_id") is None else _get(text, "bos_token_id", int),
        eos_token_id=_eos(text),
        quantization=_quantization(raw),
    )  # fmt: skip


def _get(table: Mapping[str, Any], name: str, kind: type, prefix: str = "text_config.") -> Any:
    """The field of that kind; a whole number is a float too, a bool is never a number."""
    label = name if kind is dict else prefix + name
    if name not in table:
        raise CheckpointError(f"the field {label} is missing; sizes are never guessed")
    value = table[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(f"the field {label} is {value!r}, expected {kind.__name__}")
    return value


def _refuse(table: Mapping[str, Any], prefix: str, rules: tuple[tuple[str, tuple[object, ...]], ...]) -> None:
    """Fields that may be absent (then Transformers means the first value) but change the computation if they differ."""
    for name, allowed in rules:
        value = table.get(name, allowed[0])
        if value not in allowed:
            raise CheckpointError(f"{prefix}{name} = {value!r} is not supported, only {allowed[0]!r} is")


def _layer_types(text: Mapping[str, Any]) -> tuple[LayerType, ...]:
    names = _get(text, "layer_types", list)
    for name in names:
        if name not in (SLIDING, FULL):
            raise CheckpointError(f"text_config.layer_types holds {name!r}, known are {SLIDING!r} and {FULL!r}")
    count = _get(text, "num_hidden_layers", int)
    if len(names) != count:
        raise CheckpointError(
            f"text_config.layer_types has {len(names)} entries, num_hidden_layers is {count}: they must be equal"
        )
    if names[-1:] != [FULL]:
        raise CheckpointError(f"text_config.layer_types must end with {FULL!r}, Transformers runs nothing else")
    return tuple(names)


def _full_layer_sizes(text: Mapping[str, Any], layer_types: tuple[LayerType, ...]) -> tuple[int, int]:
    """(S, K) of the full layers from either spelling; where both stand, per_layer_config wins, as in Transformers."""
    if "per_layer_config" not in text:
        head_dim = _get(text, "global_head_dim", int)
        if text.get("num_global_key_value_heads", 0) is None:  # null: as many as in sliding layers
            return head_dim, _get(text, "num_key_value_heads", int)
        return head_dim, _get(text, "num_global_key_value_heads", int)
    sizes: dict[LayerType, set[tuple[int, int]]] = {SLIDING: set(), FULL: set()}
    overrides = _per_layer(text, len(layer_types))
    for index, layer_type in enumerate(layer_types):
        merged = {**text, **overrides.get(index, {})}
        sizes[layer_type].add((_get(merged, "head_dim", int), _get(merged, "num_key_value_heads", int)))
    plain = (_get(text, "head_dim", int), _get(text, "num_key_value_heads", int))
    if len(sizes[FULL]) > 1 or sizes[SLIDING] - {plain}:
        raise CheckpointError("text_config.per_layer_config gives layers of one type different sizes: not supported")
    return next(iter(sizes[FULL]), plain)


def _per_layer(text: Mapping[str, Any], count: int) -> dict[int, dict[str, Any]]:
    overrides = {}
    for key, values in _get(text, "per_layer_config", dict).items():
        if not str(key).isdecimal() or int(key) >= count or not isinstance(values, dict):
            raise CheckpointError(
                f"text_config.per_layer_config has the entry {key!r}: expected layer indices below {count} with sizes"
            )
        unknown = sorted(set(values) - {"head_dim", "num_key_value_heads"})
        if unknown:
            raise CheckpointError(f"text_config.per_layer_config.{key} sets {unknown[0]}: not supported")
        overrides[int(key)] = values
    return overrides


def _rope(text: Mapping[str, Any], layer_types: tuple[LayerType, ...]) -> dict[LayerType, Rope]:
    table = _get(text, "rope_parameters", dict)
    ropes = {}
    for layer_type in sorted(set(layer_types)):
        prefix = f"text_config.rope_parameters.{layer_type}."
        raw = _get(table, layer_type, dict)
        kind = _get(raw, "rope_type", str, prefix)
        theta = _get(raw, "rope_theta", float, prefix)
        if kind == "default":
            rotated = 1.0
            _refuse(raw, prefix, (("partial_rotary_factor", (1.0,)),))
        elif kind == "proportional":
            rotated = _get(raw, "partial_rotary_factor", float, prefix)
            _refuse(raw, prefix, (("factor", (1.0,)),))
        else:
            raise CheckpointError(f"{prefix}rope_type = {kind!r} is not supported, known are default and proportional")
        _require(theta > 0, prefix + "rope_theta", theta, "must be above 0")
        _require(0 < rotated <= 1, prefix + "partial_rotary_factor", rotated, "must be above 0 and at most 1")
        ropes[layer_type] = Rope(theta, rotated)
    return ropes


def _softcap(text: Mapping[str, Any]) -> float:
    if "final_logit_softcapping" not in text and "per_layer_config" in text:
        return TRANSFORMERS_SOFTCAP
    cap: float = _get(text, "final_logit_softcapping", float)
    return cap


def _eos(text: Mapping[str, Any]) -> tuple[int, ...]:
    value = text.get("eos_token_id")
    ids = tuple(value) if isinstance(value, list) else () if value is None else (value,)
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(f"the field text_config.eos_token_id is {value!r}, expected an id or a list of ids")
    return ids


def _quantization(raw: Mapping[str, Any]) -> Quantization | None:
    """MLX's `quantization` (mlx-vlm repeats it as `quantization_config`, which alone may be another tool's)."""
    table = raw.get("quantization", raw.get("quantization_config"))
    if table is None:
        return None
    if not isinstance(table, dict) or "quant_method" in table:
        raise CheckpointError("quantization_config was not written by MLX; take the unquantised or an MLX checkpoint")
    overrides = {
        path: _quant_spec(value, path) if isinstance(value, dict) else None
        for path, value in table.items()
        if isinstance(value, dict) or value is False
    }
    return Quantization(_quant_spec(table, "quantization"), overrides)


def _quant_spec(table: Mapping[str, Any], path: str) -> QuantSpec:
    """An entry without a mode is affine, whatever the default's mode: so MLX writes and reads them."""
    mode = table.get("mode", "affine")
    fixed = dict(zip(("group_size", "bits"), FIXED_MODES.get(mode, ()), strict=False))
    merged = {**fixed, **table}
    prefix = "quantization." if path == "quantization" else f"quantization.{path}."
    return QuantSpec(_get(merged, "group_size", int, prefix), _get(merged, "bits", int, prefix), mode)
