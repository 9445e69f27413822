"""Fields of config.json taken out one by one: never defaulted, checked for their kind, errors of one line.

Knows nothing of which fields there are or what they mean. All errors are CheckpointErrors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_diffusion.errors import CheckpointError


def read_field(table: Mapping[str, Any], name: str, kind: type, prefix: str = "text_config.") -> Any:
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


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Refuse a value that breaks a rule."""
    if not holds:
        raise CheckpointError(f"{name} = {value!r} {rule}")


def refuse_others(table: Mapping[str, Any], prefix: str, rules: tuple[tuple[str, tuple[object, ...]], ...]) -> None:
    """Refuse other values than the allowed ones; a missing field stands for the first of them, as in Transformers."""
    for name, allowed in rules:
        value = table.get(name, allowed[0])
        if value not in allowed:
            raise CheckpointError(f"{prefix}{name} = {value!r} is not supported, only {allowed[0]!r} is")
