"""The keywords of JSON schemas that are held, and those that say nothing of a text; all others are refused by name.

A keyword that is passed over in silence would let invalid texts through. Knows nothing of how a schema is held.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from math import lcm
from typing import Any

from mlx_diffusion.errors import OptionError
from mlx_diffusion.json_files import DEEPEST, bounded_json
from mlx_diffusion.structure.joined_patterns import check_joined
from mlx_diffusion.visible_text import shown

OF_SCHEMAS = ("items", "additionalItems", "additionalProperties")  # whose value is a schema
OF_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf", "items")  # a list of schemas
OF_NAMES = ("properties", "patternProperties", "$defs", "definitions")  # schemas by name
HELD = {
    *OF_SCHEMAS, *OF_LISTS, *OF_NAMES, "$ref", "type", "enum", "const", "required", "minProperties", "maxProperties",
    "minItems", "maxItems", "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf",
}  # fmt: skip
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
VALUES = {"const", "enum", "required"}
MOST_REMAINDERS = 100_000  # of numbers, by what they must be multiples of
FARTHEST = 2**53  # from zero: beyond, readers of JSON round whole numbers
REMARKS = {
    "$schema", "$id", "id", "$comment", "title", "description", "default", "examples", "example", "deprecated",
    "readOnly", "writeOnly", "contentEncoding", "contentMediaType",
}  # fmt: skip
ASIDE = {*REMARKS, "$defs", "definitions"}


def plain_schema(schema: object, where: str) -> Any:
    """A schema as JSON says it, copied and checked. Raises OptionError."""
    if not isinstance(schema, Mapping):
        raise OptionError(f"constraint {where} is {shown(schema)}; it must be a dict, as in {{'type': 'object'}}")
    too_deep = OptionError(f"constraint {where} goes more than {DEEPEST} levels deep; make it flatter")
    try:
        text = json.dumps(schema, allow_nan=False)
    except RecursionError:
        raise too_deep from None
    except (TypeError, ValueError) as error:
        raise OptionError(f"constraint {where} is no JSON ({error}); write plain dicts and lists") from None
    try:
        plain = bounded_json(text)
    except ValueError:  # it is JSON, so that this alone is left
        raise too_deep from None
    check_schema(plain, where)
    return plain


def check_schema(schema: Any, where: str) -> None:
    """Raise OptionError for the first keyword that is not held; schema is what JSON says."""
    for path, one in schemas_in(schema, where):
        for keyword in one:
            if keyword not in HELD and keyword not in REMARKS:
                raise OptionError(
                    f"constraint {path} has the keyword {shown(keyword)}, which is not supported; those that are: "
                    f"{', '.join(sorted(HELD))}"
                )
        _check_count(path, one)
        _check_values(path, one)
    found = list(schemas_in(schema, where))
    joined = any("allOf" in one or ("$ref" in one and one.keys() - ASIDE - {"$ref"}) for _, one in found)
    _check_multiples(found, joined)
    if joined:
        check_joined(schema, where)


def patterns_in(schema: Any) -> list[str]:
    """The regular expressions in a schema."""
    found = []
    for _, one in schemas_in(schema, ""):
        named = one.get("patternProperties")
        found += [one.get("pattern"), *(named if isinstance(named, dict) else ())]
    return [pattern for pattern in found if isinstance(pattern, str)]


def _check_values(path: str, schema: Mapping[str, Any]) -> None:
    """Bounds and values that would not be held as they are given."""
    for keyword in BOUNDS & schema.keys():
        _check_value(f"{path}.{keyword}", schema[keyword], bound=True)
    for keyword in VALUES & schema.keys():
        _check_value(f"{path}.{keyword}", schema[keyword])
    named = schema.get("properties")
    if isinstance(named, dict):
        _check_value(f"{path}.properties", list(named))


def _check_multiples(found: Sequence[tuple[str, dict[str, Any]]], joined: bool) -> None:
    """llguidance has a state for every remainder; where schemas are joined, for every remainder of all of them."""
    states = 1
    for path, one in found:
        step = one.get("multipleOf")
        if not isinstance(step, int | float) or step <= 0:
            continue  # which is refused elsewhere
        digits = int("".join(map(str, Decimal(str(step)).normalize().as_tuple().digits)))
        states = lcm(states if joined else 1, digits)
        if states > MOST_REMAINDERS:
            beside = " with those beside it" if states > digits else ""
            raise OptionError(
                f"constraint {path}.multipleOf is {step}, which{beside} has {states:,} remainders; there may be "
                f"{MOST_REMAINDERS:,}"
            )


def _check_value(path: str, value: Any, bound: bool = False) -> None:
    if isinstance(value, int if not bound else int | float) and abs(value) > FARTHEST:
        raise OptionError(f"constraint {path} has the number {shown(value)}; exact ones go from -2^53 to 2^53")
    if isinstance(value, str):
        odd = next((letter for letter in value if not _is_spelt(letter)), None)
        if odd is not None:
            raise OptionError(f"constraint {path} has the character {odd!r}, which is not supported; leave it out")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for one in value:
            _check_value(path, one)


def _is_spelt(letter: str) -> bool:
    """Whether a JSON text may hold a character, by itself or by a short escape."""
    return letter in "\b\t\n\f\r" or not (letter < " " or letter == "\x7f" or "\ud800" <= letter <= "\udfff")


def _check_count(path: str, schema: Mapping[str, Any]) -> None:
    """A text may say a name twice, and then it has fewer properties than were counted."""
    least, required = schema.get("minProperties"), schema.get("required", [])
    if not isinstance(least, int | float) or not isinstance(required, list):
        return
    free = schema.get("additionalProperties", True) is not False or schema.get("patternProperties")
    if free and least > len(set(map(str, required))):
        raise OptionError(
            f"constraint {path} has the keyword 'minProperties' where names are free, which is not supported; name "
            f"{least} properties in 'required', or set additionalProperties to false"
        )


def schemas_in(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, with the way to it."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword, value in schema.items():
        here = f"{path}.{keyword}"
        if keyword in OF_NAMES and isinstance(value, dict):
            for name, one in value.items():
                yield from schemas_in(one, f"{here}.{name}")
        elif keyword in OF_LISTS and isinstance(value, list):
            for index, one in enumerate(value):
                yield from schemas_in(one, f"{here}[{index}]")
        elif keyword in OF_SCHEMAS:
            yield from schemas_in(value, here)
