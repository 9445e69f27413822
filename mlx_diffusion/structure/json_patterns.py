"""The patterns of JSON schemas as llguidance is to read them: as JSON schemas mean them, and with exact classes.

llguidance takes a class with control characters to hold the quote and the backslash, too, and its dates include 29
February in every year. Knows nothing of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mlx_diffusion.structure.schema_keywords import schemas_in

_FOR = {r"\d": "0", r"\w": "a", r"\s": " ", r"\S": "a", r"\D": "a", r"\W": " ", r"\p": "a", r"\P": " ", r"\b": ""}
_SIGNS = {"^": "", "$": "", ".": "\0", "|": "\0", "?": "", "*": "\0", "+": "", "(": "", ")": ""}  # of patterns
NEAREST = 1e-9  # to zero, of numbers that are not to be zero
_ODD = "xucpPSWD0"  # letters of escapes that may stand for control characters
_CONTROLS, _SHORT = r"[^\x00-\x1f\x7f]", r"[\x08\t\n\f\r]"  # all but control characters; those with short escapes
DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)


def rewrite_patterns(schema: Any) -> None:
    """Rewrite the patterns of a schema, which is what JSON says, in place."""
    for _, one in list(schemas_in(schema, "")):
        if isinstance(one.get("pattern"), str):
            one["pattern"] = exact(one["pattern"])
        rewrite_bounds(one)
        named = one.get("patternProperties")
        if isinstance(named, dict):
            one["patternProperties"] = {exact(name): value for name, value in named.items()}
        if one.get("format") in ("date", "date-time") and isinstance(one.setdefault("allOf", []), list):
            one["allOf"].append({"pattern": f"^{DATE}"})


def rewrite_bounds(one: dict[str, Any]) -> None:
    """Zero as a bound that is left out: llguidance lets it in where the other bound is nearer to it than 1."""
    for excluded, bound, nearest, farther in (
        ("exclusiveMinimum", "minimum", NEAREST, max),
        ("exclusiveMaximum", "maximum", -NEAREST, min),
    ):
        if one.get(excluded) == 0 and isinstance(one.get(bound, 0), int | float):
            one[bound] = farther(nearest, one.get(bound, nearest))
            del one[excluded]


def exact(pattern: str) -> str:
    """A pattern with its classes as JSON schemas mean them, each without the characters that JSON cannot spell."""
    found = ""
    for part in parts_of(pattern):
        if part[0] == "[":
            part, _ = _class(part, 0)
        elif part[:2] in ("\\p", "\\P"):
            part = _spelt(f"[{part}]")
        found += part
    return found


def spelt_by(pattern: str) -> str:
    """Letters that texts of a pattern are likely to have, in its order, a NUL where they need not be neighbours."""
    found = ""
    counts = re.compile(r"(?<!\\)\{[0-9,]*\}|\(\?(:|P?<\w+>)")
    for part in parts_of(counts.sub("", pattern)):
        inner = part[1:-1] if part[0] == "[" else part
        if part[0] == "[" and inner.startswith("^"):
            found += "\0"
            continue
        first = inner[:2] if inner.startswith("\\") else inner[:1]
        plain = len(first) == 2 or part[0] == "[" or first not in _SIGNS
        found += _FOR.get(first, first[-1:]) if plain else _SIGNS[first]
    return found


def parts_of(pattern: str) -> Iterator[str]:
    """A pattern in parts that mean something: classes, escapes, and single characters."""
    place = 0
    while place < len(pattern):
        end = place + 1
        if pattern[place] == "[":
            _, end = _class(pattern, place)
        elif pattern[place] == "\\":
            end = place + _escape(pattern, place)
        yield pattern[place:end]
        place = end


def _escape(pattern: str, place: int) -> int:
    """The length of an escape."""
    if pattern[place + 1 : place + 3] in ("p{", "P{"):
        return pattern.find("}", place) + 1 - place if "}" in pattern[place:] else 3
    return 3 if pattern[place + 1 : place + 2] in ("p", "P") else 2


def _class(pattern: str, start: int) -> tuple[str, int]:
    """A class, and where it ends: `[`, `&&`, `--` and `~~` have no meaning of their own within it."""
    place = start + 1 + pattern.startswith("^", start + 1)
    found, odd = pattern[start:place], place > start + 1
    first = place
    while place < len(pattern) and (pattern[place] != "]" or place == first):
        letter = pattern[place]
        if letter == "\\":
            size = _escape(pattern, place)
            found += pattern[place : place + size]
            odd = odd or pattern[place + 1 : place + 2] in _ODD
            place += size
            continue
        twice = letter in "&-~" and found.endswith(letter) and place > first
        found += f"\\{letter}" if letter == "[" or twice else letter
        odd = odd or letter < " "
        place += 1
    if place >= len(pattern):
        return pattern[start:], len(pattern)
    return _spelt(f"{found}]") if odd else f"{found}]", place + 1


def _spelt(one: str) -> str:
    """The characters of a class that JSON texts may hold, those with short escapes beside all others."""
    return f"(?:[{one}&&{_CONTROLS}]|[{one}&&{_SHORT}])"
