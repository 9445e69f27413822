"""The values of a tool call's arguments as rules of a grammar: JSON schemas, in the call's own way of writing them.

A string stands between two `<|"|>`, a name is bare, and there are no blanks; all else is written as in JSON. An object
holds what is declared, and nothing else unless its schema says so. Knows nothing of tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_diffusion.errors import OptionError
from mlx_diffusion.structure.call_strings import QUOTE, content, literal, quoted
from mlx_diffusion.structure.joined_patterns import pointed
from mlx_diffusion.structure.json_patterns import rewrite_bounds
from mlx_diffusion.structure.schema_keywords import ASIDE
from mlx_diffusion.visible_text import shown

TYPES = ("string", "number", "integer", "boolean", "null", "object", "array")
BARE = re.compile(r"\w+", re.ASCII)
OWN: dict[str, set[str]] = {  # keywords by the type that they speak of
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "additionalItems", "minItems", "maxItems"},
}
OWN["integer"] = OWN["number"]
OF_TYPES = set().union(*OWN.values())
WHOLE = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")  # with `type` at most beside them
NUMBERS = {  # whose value no reader of JSON rounds to infinity
    "integer": "/-?(0|[1-9][0-9]{0,17})/",
    "number": r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/",
}
NO_BLANKS = {"whitespace_flexible": False, "lenient": False}


class CallValues:
    """Rules, in llguidance's dialect of Lark, that grow with each schema."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._root: Any = True
        self._known: dict[str, str] = {}  # rules by their bodies
        self._referred: dict[str, str] = {}  # and by references within the root

    def arguments(self, schema: Mapping[str, Any], where: str) -> str:
        """The name of a rule for the arguments of a call, braces and all. Raises OptionError."""
        check_by_llguidance(schema, where)
        self._root, self._referred = schema, {}
        if schema.get("type", "object") != "object":
            raise OptionError(f"constraint {where} has the type {shown(schema['type'])}; arguments are an object")
        return self._value({"properties": {}, **schema, "type": "object"}, where)

    def _rule(self, body: str, terminal: bool = False) -> str:
        """The name of a rule with this body."""
        if body not in self._known:
            self._known[body] = f"{'T' if terminal else 'r'}{len(self.lines)}"
            self.lines.append(f"{self._known[body]}: {body}")
        return self._known[body]

    def _value(self, schema: Any, where: str) -> str:
        if schema is False:
            raise OptionError(f"constraint {where} is False, so that nothing can stand there; leave it out")
        schema = {} if schema is True else schema
        held = set(schema) - ASIDE
        if not held:
            return self._anything()
        whole = next((keyword for keyword in WHOLE if keyword in schema), None)
        if whole is not None:
            beside = sorted(held - {whole, "type"} - ({"type"} if whole in ("const", "enum") else set()))
            if beside or ("type" in held and whole not in ("const", "enum")):
                raise OptionError(
                    f"constraint {where} has {whole!r} beside {shown((beside or ['type'])[0])}, which is not supported "
                    "in tools; keep one of them"
                )
            return self._whole(whole, schema, where)
        types = _types(schema)
        unheld = sorted(held - {"type"} - OF_TYPES)
        if unheld:
            raise OptionError(f"constraint {where} has the keyword {shown(unheld[0])}, which is not supported in tools")
        rules = [self._of_type(kind, schema, where) for kind in types if not ("number" in types and kind == "integer")]
        return self._rule(" | ".join(rules)) if len(rules) > 1 else rules[0]

    def _whole(self, keyword: str, schema: Mapping[str, Any], where: str) -> str:
        if keyword == "$ref":
            return self._reference(schema["$ref"], where)
        if keyword in ("const", "enum"):
            values = [schema["const"]] if keyword == "const" else schema["enum"]
            types = _types(schema)
            literals = [written(value, where) for value in values if _has_type(value, types)]
            if not literals:
                raise OptionError(f"constraint {where} has no value of its type in {keyword!r}")
            return self._rule(" | ".join(dict.fromkeys(literals)))
        options = schema[keyword]
        if keyword == "allOf" and len(options) > 1:
            raise OptionError(f"constraint {where} has 'allOf' with several schemas, which is not supported in tools")
        rules = [self._value(one, f"{where}.{keyword}[{index}]") for index, one in enumerate(options)]
        return self._rule(" | ".join(dict.fromkeys(rules)))

    def _of_type(self, kind: str, schema: Mapping[str, Any], where: str) -> str:
        if kind == "string":
            return self._rule(f"{QUOTE} {self._rule(content(schema, where), terminal=True)} {QUOTE}")
        if kind in ("number", "integer"):
            own = {name: schema[name] for name in sorted(OWN[kind] & set(schema))}
            rewrite_bounds(own)
            if not own:
                return self._rule(NUMBERS[kind], terminal=True)
            return self._rule(f"%json {json.dumps({'type': kind, **own, 'x-guidance': NO_BLANKS})}")
        if kind == "array":
            return self._rule(f'"[" {self._items(schema, where)} "]"')
        if kind == "object":
            return self._object(schema, where)
        return self._rule('"true" | "false"' if kind == "boolean" else '"null"')

    def _items(self, schema: Mapping[str, Any], where: str) -> str:
        """The name of a rule for what stands between the brackets."""
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(rest, list):  # as older drafts have it
            first, rest = rest, schema.get("additionalItems", True)
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        first = first if most is None else first[: int(most)]
        if rest is False or (most is not None and most <= len(first)):
            if least > len(first):
                raise OptionError(f"constraint {where} has no room for its minItems, {least}; lower it")
            tail = ""
        else:
            value, few = self._value(rest, f"{where}.items"), max(least - len(first), 0)
            tail = _more(value, few, None if most is None else int(most) - len(first))
            if not first:
                return self._some(value, few, most)
        for index in reversed(range(len(first))):
            comma = '"," ' if index else ""
            own = f"{comma}{self._value(first[index], f'{where}.prefixItems[{index}]')} {tail}"
            tail = self._rule(own if index < least else f"({own})?")
        return tail or '""'

    def _some(self, value: str, least: int, most: float | None) -> str:
        some = f"{value} {_more(value, max(least - 1, 0), None if most is None else int(most) - 1)}"
        return self._rule(some if least else f"({some})?")

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        declared = schema.get("properties", {})
        required, others = schema.get("required", []), schema.get("additionalProperties", "properties" not in schema)
        names = {**dict.fromkeys(required, True if others is False else others), **declared}
        pairs = [
            (f"{_key(name, where)} {self._value(names[name], f'{where}.properties.{name}')}", name in required)
            for name in sorted(names, key=str.lower)
            if names[name] is not False or name in required
        ]
        tail = self._others(list(names), others, where) if others is not False else ""
        begun = self._rule(f'("," {tail})*') if tail else '""'
        empty = self._rule(f'({tail} ("," {tail})*)?') if tail else '""'
        for pair, needed in reversed(pairs):
            # what follows where a pair stands before, and where none does
            goes_on, begins = f'"," {pair} {begun}', f"{pair} {begun}"
            begun, empty = (
                self._rule(goes_on if needed else f"{goes_on} | {begun}"),
                self._rule(begins if needed else f"{begins} | {empty}"),
            )
        return self._rule(f'"{{" {empty} "}}"')

    def _others(self, declared: Sequence[str], schema: Any, where: str) -> str:
        """The name of a rule for a pair with a name that is not declared."""
        taken = " | ".join(map(literal, declared))
        name = "/[A-Za-z_][A-Za-z0-9_]*/" + (f" & ~({taken})" if taken else "")
        return self._rule(
            f'{self._rule(name, terminal=True)} ":" {self._value(schema, f"{where}.additionalProperties")}'
        )

    def _anything(self) -> str:
        """The name of the rule for any value."""
        if not any(line.startswith("anything:") for line in self.lines):
            place = len(self.lines)
            self.lines.append("anything:")  # within which it may be referred to
            kinds = [self._of_type(kind, {}, "") for kind in TYPES if kind != "integer"]
            self.lines[place] = f"anything: {' | '.join(kinds)}"
        return "anything"

    def _reference(self, reference: str, where: str) -> str:
        if reference not in self._referred:
            found = pointed(self._root, reference)
            if found is None:
                raise OptionError(f"constraint {where} refers to what is not there; write '#/$defs/NAME'")
            self._referred[reference] = name = f"ref{len(self.lines)}"
            place = len(self.lines)
            self.lines.append("")  # within which it may be referred to
            self.lines[place] = f"{name}: {self._value(found, where)}"
        return self._referred[reference]


def check_by_llguidance(schema: Mapping[str, Any], where: str) -> None:
    """Raise OptionError for what is no schema, says two things at once, or has options that are not apart."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"lenient": False})
    error = LLMatcher.validate_grammar(grammar)
    if error:
        raise OptionError(f"constraint {where} cannot be held: {error}")


def written(value: Any, where: str) -> str:
    """One value as a call spells it."""
    if isinstance(value, str):
        return quoted(value, where)
    if isinstance(value, list):
        return _joined('"["', [written(one, where) for one in value], '"]"')
    if isinstance(value, Mapping):
        names = sorted(value, key=str.lower)
        return _joined('"{"', [f"{_key(name, where)} {written(value[name], where)}" for name in names], '"}"')
    return f'"{json.dumps(value)}"'


def _more(value: str, least: int, most: int | None) -> str:
    """Values behind others."""
    return "" if most == 0 else f'("," {value}){{{least},{"" if most is None else most}}}'


def _joined(begins: str, parts: Sequence[str], ends: str) -> str:
    return " ".join([begins, ' "," '.join(parts), ends])


def _key(name: str, where: str) -> str:
    return f'"{name}:"' if BARE.fullmatch(name) else f'{quoted(name, where)} ":"'


def _types(schema: Mapping[str, Any]) -> list[str]:
    """The types that a value may have; without a word of them, all."""
    named = schema.get("type", list(TYPES))
    return [named] if isinstance(named, str) else list(named)


def _has_type(value: Any, types: Sequence[str]) -> bool:
    if isinstance(value, bool) or value is None:
        return ("null" if value is None else "boolean") in types
    if isinstance(value, int | float):
        return "number" in types or ("integer" in types and value == int(value))
    return ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object") in types
