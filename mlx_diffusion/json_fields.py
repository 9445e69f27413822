"""A checkpoint's JSON files, read and checked field by field, with errors of one line.

Knows nothing of which fields there are or what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import CheckpointError


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read as JSON ({error}); download the file again") from None
    return parse_json(content, str(file))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The object in a JSON file's bytes; `where` names the file in errors."""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{where} cannot be read as JSON ({reason}); download the file again") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{where} holds no JSON object; download the file again")
    return table


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise CheckpointError, which names the field, its value and the rule, unless the rule holds."""
    if not holds:
        raise CheckpointError(f"{name} = {value!r} {rule}")


def get(table: Mapping[str, Any], name: str, kind: type, prefix: str = "text_config.") -> Any:
    """The field `name`, which must be of that kind. A whole number is also a float; a bool is never a number."""
    label = name if kind is dict else prefix + name
    if name not in table:
        raise CheckpointError(f"the field {label} is missing; sizes are never guessed")
    value = table[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(f"the field {label} is {value!r}, expected {kind.__name__}")
    return value


def refuse(table: Mapping[str, Any], prefix: str, rules: tuple[tuple[str, tuple[object, ...]], ...]) -> None:
    """Raise CheckpointError for a value that would change the computation into one that is not built.

    `rules` give each field's allowed values; the first is what Transformers takes where the field is absent.
    """
    for name, allowed in rules:
        value = table.get(name, allowed[0])
        if value not in allowed:
            raise CheckpointError(f"{prefix}{name} = {value!r} is not supported, only {allowed[0]!r} is")
