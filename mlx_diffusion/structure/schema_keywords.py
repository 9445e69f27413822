"""The keywords of JSON schemas that are held, and those that say nothing of a text; all others are refused by name.

A keyword that is passed over in silence would let invalid texts through. Knows nothing of how a schema is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_diffusion.errors import OptionError

OF_SCHEMAS = ("items", "additionalItems", "additionalProperties")  # whose value is a schema
OF_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf", "items")  # a list of schemas
OF_NAMES = ("properties", "patternProperties", "$defs", "definitions")  # schemas by name
HELD = {
    *OF_SCHEMAS, *OF_LISTS, *OF_NAMES, "$ref", "type", "enum", "const", "required", "minProperties", "maxProperties",
    "minItems", "maxItems", "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf",
}  # fmt: skip
REMARKS = {
    "$schema", "$id", "id", "$comment", "title", "description", "default", "examples", "example", "deprecated",
    "readOnly", "writeOnly", "contentEncoding", "contentMediaType",
}  # fmt: skip


def check_schema(schema: Any) -> None:
    """Raise OptionError for the first keyword that is not held; schema is what JSON says."""
    for path, one in _schemas(schema, "json_schema"):
        for keyword in one:
            if keyword not in HELD and keyword not in REMARKS:
                raise OptionError(
                    f"constraint {path} has the keyword {keyword!r}, which is not supported; those that are: "
                    f"{', '.join(sorted(HELD))}"
                )
        _check_count(path, one)


def patterns_in(schema: Any) -> list[str]:
    """The regular expressions in a schema."""
    found = []
    for _, one in _schemas(schema, ""):
        named = one.get("patternProperties")
        found += [one.get("pattern"), *(named if isinstance(named, dict) else ())]
    return [pattern for pattern in found if isinstance(pattern, str)]


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


def _schemas(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema within a schema, with the way to it."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword, value in schema.items():
        here = f"{path}.{keyword}"
        if keyword in OF_NAMES and isinstance(value, dict):
            for name, one in value.items():
                yield from _schemas(one, f"{here}.{name}")
        elif keyword in OF_LISTS and isinstance(value, list):
            for index, one in enumerate(value):
                yield from _schemas(one, f"{here}[{index}]")
        elif keyword in OF_SCHEMAS:
            yield from _schemas(value, here)
