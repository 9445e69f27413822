"""Constraints as callers write them: one of five kinds, checked, as a grammar that llguidance reads.

Knows nothing of tokens, models or rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.errors import OptionError
from mlx_diffusion.structure.call_strings import literal
from mlx_diffusion.structure.json_patterns import rewrite_patterns, spelt_by
from mlx_diffusion.structure.schema_keywords import patterns_in, plain_schema
from mlx_diffusion.structure.tool_calls import grammar_of_tools
from mlx_diffusion.visible_text import shown

LONGEST = 4_000_000  # characters of a constraint
JSON_KINDS = ("json_schema", "json_object")
MOST_CHOICES = 10_000
# Between the tokens of a JSON text: as people and models lay it out, and no more of it, lest a text be blank for ever.
BLANK = r"( {1,4}|\r?\n[ \t]{0,64})"
ESCAPES = '"\\bfnrt'  # without \u: it could spell a name that stands there already, or half of a character
JSON_OPTIONS = {"whitespace_pattern": BLANK, "json_allowed_escapes": ESCAPES, "lenient": False, "coerce_one_of": False}


@dataclass(frozen=True)
class Constraint:
    """What a text must be."""

    kind: str  # a key of KINDS
    grammar: str  # as llguidance takes it
    literals: bytes = b""  # what its text may spell


def read_constraint(value: object) -> Constraint:
    """A constraint from a mapping with one key, or with `tools` and how they are to be called. Raises OptionError."""
    if isinstance(value, Mapping) and "tools" in value:
        return _bounded(Constraint("tools", *grammar_of_tools(value)))
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in KINDS:
        found = f"has the keys {shown(sorted(map(str, value)))}" if isinstance(value, Mapping) else f"is {shown(value)}"
        raise OptionError(f"constraint {found}; it must be a dict with one of the keys {', '.join(KINDS)}, tools")
    [(kind, wanted)] = value.items()
    grammar = KINDS[kind](wanted)
    if kind in JSON_KINDS:
        literals = list(map(spelt_by, patterns_in(wanted)))
    else:
        literals = [spelt_by(wanted)] if kind == "regex" else [wanted] if isinstance(wanted, str) else wanted
    return _bounded(Constraint(kind, grammar, "\0".join(literals).encode()))


def _bounded(constraint: Constraint) -> Constraint:
    size = len(constraint.grammar)
    if size > LONGEST:
        raise OptionError(f"constraint {constraint.kind} has {size:,} characters as a grammar; it may have {LONGEST:,}")
    return constraint


def _of_schema(schema: object) -> str:
    plain = plain_schema(schema, "json_schema")
    rewrite_patterns(plain)
    return _json_grammar(json.dumps(plain))


def _of_object(wanted: object) -> str:
    if wanted is not True:
        raise OptionError(f"constraint json_object is {shown(wanted)}; it must be True")
    return _json_grammar('{"type": "object"}')


def _json_grammar(schema: str) -> str:
    from llguidance import LLMatcher

    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
    except ValueError as error:
        raise OptionError(f"constraint json_schema cannot be read ({error})") from None


def _of_regex(pattern: object) -> str:
    from llguidance import LLMatcher

    text = _text("regex", pattern)
    if (len(text) - len(text.rstrip("\\"))) % 2:  # it would escape what closes the expression in llguidance's notation
        raise OptionError("constraint regex ends with a backslash that escapes nothing; write two for one")
    return LLMatcher.grammar_from_regex(text)


def _of_grammar(grammar: object) -> str:
    """Lark's notation, or the EBNF of llama.cpp (GBNF), which is translated."""
    from llguidance import LLMatcher, grammar_from

    text = _text("grammar", grammar)
    if "%json" in text or text.lstrip().startswith("{"):
        raise OptionError("constraint grammar holds JSON, which is not checked there; use json_schema")
    if "::=" not in text:
        return LLMatcher.grammar_from_lark(text)
    try:
        return grammar_from("gbnf", text)
    except ValueError as error:
        raise OptionError(f"constraint grammar cannot be read as EBNF ({error})") from None


def _of_choice(choices: object) -> str:
    from llguidance import LLMatcher

    if isinstance(choices, str | bytes | Mapping) or not isinstance(choices, Sequence) or not choices:
        raise OptionError(f"constraint choice is {shown(choices)}; it must be a list of strings, at least one")
    if len(choices) > MOST_CHOICES:
        raise OptionError(f"constraint choice has {len(choices):,} strings; it may have {MOST_CHOICES:,}")
    texts = [_text("choice", choice) for choice in choices]
    twice, times = Counter(texts).most_common(1)[0]
    if times > 1:
        raise OptionError(f"constraint choice has {shown(twice)} twice; the choices must differ")
    # one terminal, since as rules a few thousand are more than the parser follows at once
    choice = " | ".join(literal(text) for text in texts)
    return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {choice}")


def _text(kind: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise OptionError(f"constraint {kind} holds {shown(value)}; it must be a string of at least one character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OptionError(f"constraint {kind} is not valid Unicode text ({error})") from None
    return value


KINDS: Mapping[str, Callable[[Any], str]] = {
    "json_schema": _of_schema,
    "json_object": _of_object,
    "regex": _of_regex,
    "choice": _of_choice,
    "grammar": _of_grammar,
}
