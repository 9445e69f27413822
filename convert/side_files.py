"""The files beside the weights of a converted checkpoint: index, copied files, card and config.

Knows nothing of where these files are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlx_diffusion.checkpoint.folder import CONFIG_FILE
from mlx_diffusion.checkpoint.weight_files import INDEX_FILE
from mlx_diffusion.convert.known_files import CARD

DTYPES = ("dtype", "torch_dtype")  # in config.json, for newer and for older readers


def side_files(
    small: Mapping[str, bytes], *, index: Mapping[str, Any], card: str, config: Mapping[str, Any]
) -> dict[str, bytes]:
    """The content of each file by name, the config last; `small` are those that are copied."""
    return {
        INDEX_FILE: _json(index),
        **small,
        CARD: card.encode(),
        CONFIG_FILE: _json(config),
    }


def converted_config(config: Mapping[str, Any], quantization: Mapping[str, Any] | None) -> dict[str, Any]:
    """A source's config.json with the quantisation added, under both names that readers look for."""
    added = {} if quantization is None else {"quantization": quantization, "quantization_config": quantization}
    kept = {name: value for name, value in config.items() if name != "quantization_config"}  # another tool's, if any
    return _in_bf16(kept) | added


def _in_bf16(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same config with bfloat16 for every dtype in it, since no tensor is kept in another floating type."""
    changed: dict[str, Any] = {name: _in_bf16(value) for name, value in fields.items() if isinstance(value, dict)}
    changed |= {name: "bfloat16" for name in DTYPES if isinstance(fields.get(name), str)}
    return {**fields, **changed}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
