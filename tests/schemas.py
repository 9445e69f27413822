"""Schemas of the kinds that users of structured answers bring, drawn at random; and patterns beside them."""

from __future__ import annotations

from random import Random
from typing import Any

WORDS = "name age city café Größe 名前 a-b x_1 id tags tür note kind 😀".split()
PATTERNS = ("^[A-Z]{2}[0-9]{3}$", "^(ab|cd)+$", "^\\d{3}-\\d{2}$", "^[äöü]+$", "b$")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")
STRINGS = ["", "a", 'quo"te', "back\\slash", "line\nbreak", "Ünïcödé", "日本語", "😀", "tab\there", "/path/"]


def schema(rng: Random, depth: int = 3) -> dict[str, Any]:
    """A schema that goes at most so deep."""
    kinds = [_string, _integer, _number, _boolean, _null, _enum, _const]
    if depth:
        kinds += [_object, _object, _object, _array, _array, _any_of, _all_of]
    return rng.choice(kinds)(rng, depth - 1)


def recursive(rng: Random) -> dict[str, Any]:
    """A tree, by references."""
    node = {
        "type": "object",
        "properties": {
            "value": schema(rng, 0),
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
        },
        "required": ["value"],
        "additionalProperties": False,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/$defs/node", "$defs": {"node": node}}


def _string(rng: Random, depth: int) -> dict[str, Any]:
    kind = rng.choice(("plain", "length", "pattern", "format"))
    if kind == "length":
        least = rng.randint(0, 4)
        return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 6)}
    if kind == "pattern":
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    return {"type": "string", "format": rng.choice(FORMATS)} if kind == "format" else {"type": "string"}


def _integer(rng: Random, depth: int) -> dict[str, Any]:
    bounds = rng.choice(("none", "both", "least", "most"))
    low = rng.randint(-50, 50)
    found: dict[str, Any] = {"type": "integer"}
    if bounds in ("both", "least"):
        found["minimum"] = low
    if bounds in ("both", "most"):
        found["maximum"] = low + rng.randint(0, 100)
    return found


def _number(rng: Random, depth: int) -> dict[str, Any]:
    low = round(rng.uniform(-5, 5), 2)
    bounds = rng.choice(({}, {"minimum": low, "maximum": low + 3}, {"exclusiveMinimum": low}, {"exclusiveMaximum": 7}))
    return {"type": "number", **bounds}


def _boolean(rng: Random, depth: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _null(rng: Random, depth: int) -> dict[str, Any]:
    return {"type": rng.choice((["string", "null"], ["integer", "null"], "null"))}


def _enum(rng: Random, depth: int) -> dict[str, Any]:
    return {"enum": rng.sample([*STRINGS, 1, 2.5, True, None], rng.randint(1, 5))}


def _const(rng: Random, depth: int) -> dict[str, Any]:
    return {"const": rng.choice([*STRINGS, 0, -3, False, None, [1, "a"], {"k": "v"}])}


def _object(rng: Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(1, 4))
    found: dict[str, Any] = {
        "type": "object",
        "title": "An object",
        "properties": {name: schema(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
    }
    rest = rng.choice(("closed", "open", "typed", "patterns"))
    if rest == "closed":
        found["additionalProperties"] = False
    elif rest == "typed":
        found["additionalProperties"] = schema(rng, 0)
    elif rest == "patterns":
        found |= {"patternProperties": {"^z_": {"type": "integer"}}, "additionalProperties": False}
    return found


def _array(rng: Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.3:
        first = [schema(rng, depth) for _ in range(rng.randint(1, 2))]
        return {"type": "array", "prefixItems": first, "items": rng.choice((False, schema(rng, 0))), "minItems": 1}
    least = rng.randint(0, 2)
    return {"type": "array", "items": schema(rng, depth), "minItems": least, "maxItems": least + rng.randint(0, 2)}


def _any_of(rng: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [schema(rng, depth) for _ in range(rng.randint(2, 3))]}


def _all_of(rng: Random, depth: int) -> dict[str, Any]:
    one, other = _object(rng, 0), _object(rng, 0)
    for part in (one, other):
        part.pop("additionalProperties", None)
        part.pop("patternProperties", None)
    other["properties"] = {f"{name}2": value for name, value in other["properties"].items()}
    other["required"] = [f"{name}2" for name in other["required"]]
    return {"allOf": [one, other]}
