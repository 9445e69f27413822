"""The formats in which matrices are quantised, as MLX writes them into config.json.

Knows nothing of tensors: only the files say which modules are quantised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_diffusion.checkpoint.config_json import read_field
from mlx_diffusion.errors import CheckpointError

# Group size and bits that MLX allows in a mode; affine takes any pair of the two lists.
AFFINE_GROUPS, AFFINE_BITS = (32, 64, 128), (2, 3, 4, 5, 6, 8)
FIXED_MODES = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}

FP8, NVFP4 = "FP8", "NVFP4"  # encodings of other tools, see `encodings`

MLX_GROUP = 64  # what MLX takes for one matrix where its entry has bits alone


@dataclass(frozen=True)
class QuantSpec:
    """The format of one matrix. Raises CheckpointError for one that MLX does not have.

    `fitted` scales and offsets, of affine groups alone, are only written differently (see `least_squares`).
    """

    group_size: int
    bits: int
    mode: str
    fitted: bool = field(default=False, repr=False)  # noted where it is true, so that earlier notes still hold

    def __post_init__(self) -> None:
        pair = (self.group_size, self.bits)
        if self.mode == "affine":
            if self.group_size not in AFFINE_GROUPS or self.bits not in AFFINE_BITS:
                raise CheckpointError(
                    f"quantization: affine with group_size {self.group_size} and bits {self.bits} is not supported, "
                    f"take a group_size of {AFFINE_GROUPS} and bits of {AFFINE_BITS}"
                )
        elif self.fitted:
            raise CheckpointError(f"quantization: only affine formats can be fitted, {self.mode} cannot")
        elif self.mode not in FIXED_MODES:
            raise CheckpointError(
                f"quantization: unknown mode {self.mode!r}, known are affine, {', '.join(FIXED_MODES)}"
            )
        elif pair != FIXED_MODES[self.mode]:
            raise CheckpointError(
                f"quantization: {self.mode} has group_size and bits {FIXED_MODES[self.mode]}, not {pair}"
            )

    @property
    def stored(self) -> QuantSpec:
        """The same without a word of how it is written: what readers have to know."""
        return replace(self, fitted=False)


@dataclass(frozen=True)
class Quantization:
    """The format of a checkpoint's matrices, and other formats for single paths; None: not quantised."""

    default: QuantSpec
    overrides: Mapping[str, QuantSpec | None] = field(default_factory=dict)

    def of(self, path: str) -> QuantSpec | None:
        return self.overrides.get(path, self.default)


def read_quantization(raw: Mapping[str, Any]) -> Quantization | None:
    """Read MLX's `quantization`, which mlx-vlm repeats as `quantization_config`; other tools write only the latter."""
    table = raw.get("quantization")
    if table is None:
        table = raw.get("quantization_config")
    if table is None:
        return None
    if not isinstance(table, dict) or table.get("quant_method", "mlx") != "mlx":
        if claimed_encoding(raw) is not None:
            return None
        kind = _foreign_format(table) if isinstance(table, dict) else repr(table)
        raise CheckpointError(
            f"quantization_config was not written by MLX, it is of {kind}; known beside MLX's are FP8 and NVFP4, else "
            "take the unquantised or an MLX checkpoint"
        )
    overrides = {
        path: _quant_spec({"group_size": MLX_GROUP} | value if "mode" not in value else value, path)
        if isinstance(value, dict)
        else None
        for path, value in table.items()
        if isinstance(value, dict) or value is False
    }
    return Quantization(_quant_spec(table, "quantization"), overrides)


def claimed_encoding(raw: Mapping[str, Any]) -> str | None:
    """The encoding of which config.json says that another tool wrote it, FP8 or NVFP4; None where it says neither."""
    table = raw.get("quantization")
    table = raw.get("quantization_config") if table is None else table
    if not isinstance(table, dict) or table.get("quant_method", "mlx") == "mlx":
        return None
    words = _foreign_format(table).lower()
    if "nvfp4" in words:
        return NVFP4
    return FP8 if "fp8" in words or "float-quantized" in words else None


def _foreign_format(table: Mapping[str, Any]) -> str:
    """What another tool calls its format: FP8, NVFP4, …"""
    groups = table.get("config_groups")
    named = [table.get("quant_method"), table.get("quant_algo"), table.get("format"), table.get("fmt")]
    if isinstance(groups, dict):
        named += [group.get("format") for group in groups.values() if isinstance(group, dict)]
    words = dict.fromkeys(str(name)[:40] for name in named if isinstance(name, str) and name)
    return " ".join(words) or "another tool"


def _quant_spec(table: Mapping[str, Any], path: str) -> QuantSpec:
    """One entry of the table. Without a mode it is affine, whatever the default's mode is: MLX reads it so, too."""
    prefix = "quantization." if path == "quantization" else f"quantization.{path}."
    mode = read_field({"mode": "affine", **table}, "mode", str, prefix)
    fixed = dict(zip(("group_size", "bits"), FIXED_MODES.get(mode, ()), strict=False))
    merged = {**fixed, **table}
    return QuantSpec(read_field(merged, "group_size", int, prefix), read_field(merged, "bits", int, prefix), mode)


def spec_text(spec: QuantSpec | None) -> str:
    """A format in words."""
    if spec is None:
        return "bf16"
    fitted = ", fitted" if spec.fitted else ""
    return f"{spec.bits} bits, groups of {spec.group_size}{fitted}" if spec.mode == "affine" else spec.mode
