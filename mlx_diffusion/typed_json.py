"""Dataclasses made from JSON: every value of the kind that its field says, none missing, none unknown.

Knows nothing of files, and of no dataclass in particular.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

LARGEST_COUNT = 2**53  # JSON's readers agree on whole numbers up to here
LONGEST_SHOWN = 40  # characters of a value in an error

RecordT = TypeVar("RecordT")


def from_json(kind: type[RecordT], value: Any) -> RecordT:
    """A dataclass from the object that JSON gave for it. Raises ValueError, which names the field that is wrong.

    Fields may be bool, int, float, str, another such dataclass, a tuple, a sequence, a mapping by text, or one of these
    or None. Numbers are finite, whole ones below `LARGEST_COUNT`, and none is a bool. A field with a default may be
    missing.
    """
    made: RecordT = _read(kind, value, "")
    return made


def is_finite(value: Any) -> bool:
    """True for a number of JSON's that is one for Python's arithmetic too: neither infinite nor NaN, nor a bool."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


@cache
def _form(kind: Any) -> tuple[bool, Any, tuple[Any, ...]]:
    """Whether this is a dataclass; what a generic type is one of, and of what."""
    return dataclasses.is_dataclass(kind), get_origin(kind), get_args(kind)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """The kinds of a dataclass's fields."""
    return get_type_hints(kind)


def _read(kind: Any, value: Any, where: str) -> Any:
    is_record, origin, inner = _form(kind)
    if is_record:
        return _record(kind, value, where)
    if origin in (Union, types.UnionType):
        plain = [one for one in inner if one is not type(None)]
        return None if value is None and len(plain) < len(inner) else _read(plain[0], value, where)
    if origin is tuple and inner[-1] is not Ellipsis:
        _require(isinstance(value, list) and len(value) == len(inner), f"a list of {len(inner)}", value, where)
        return tuple(_read(one, part, f"{where}[{n}]") for n, (one, part) in enumerate(zip(inner, value, strict=True)))
    if origin in (tuple, list, Sequence):
        _require(isinstance(value, list), "a list", value, where)
        parts = [_read(inner[0], part, f"{where}[{number}]") for number, part in enumerate(value)]
        return tuple(parts) if origin is tuple else parts
    if origin in (dict, Mapping):
        _require(isinstance(value, dict), "an object", value, where)
        return {name: _read(inner[1], part, f"{where}.{name}") for name, part in value.items()}
    return _plain(kind, value, where)


def _record(kind: Any, value: Any, where: str) -> Any:
    """A dataclass within another."""
    _require(isinstance(value, dict), "an object", value, where)
    hints, fields = _hints(kind), dataclasses.fields(kind)
    unknown = value.keys() - {field.name for field in fields}
    missing = {field.name for field in fields if not _has_default(field)} - value.keys()
    for names, problem in ((unknown, "is not known"), (missing, "is missing")):
        if names:
            raise ValueError(f"{_place(where, min(names))} {problem}")
    return kind(**{name: _read(hints[name], part, _place(where, name)) for name, part in value.items()})


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        _require(is_finite(value), "a finite number", value, where)
        return float(value)
    if kind is int:
        _require(type(value) is int and abs(value) < LARGEST_COUNT, "a whole number", value, where)
    else:
        _require(kind is Any or type(value) is kind, {str: "text", bool: "true or false"}.get(kind, ""), value, where)
    return value


def _place(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _require(holds: bool, wanted: str, value: Any, where: str) -> None:
    if not holds:
        shown = repr(value)
        shown = shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + "…"
        raise ValueError(f"{where or 'it'} is {shown}, not {wanted}")
