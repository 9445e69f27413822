"""The patterns of JSON schemas as llguidance is to read them: as JSON schemas mean them, and with exact classes.

llguidance takes a class with control characters to hold the quote and the backslash, too, and its dates include 29
February in every year. Knows nothing of tokens.
"""

from __future__ import annotations

from typing import Any

from mlx_diffusion.structure.schema_keywords import schemas_in

_ODD = "xucpPSWD0"  # letters of escapes that may stand for control characters
_CONTROLS, _SHORT = r"[^\x00-\x1f\x7f]", r"[\x08\t\n\f\r]"  # all but control characters; those with short escapes
_DATES = (
    r"^(?:[0-9]{4}-(?:0[13-9]|1[0-2])|[0-9]{4}-02-(?:[01][0-9]|2[0-8])"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)


def rewrite_patterns(schema: Any) -> None:
    """Rewrite the patterns of a schema, which is what JSON says, in place."""
    for _, one in list(schemas_in(schema, "")):
        if isinstance(one.get("pattern"), str):
            one["pattern"] = exact(one["pattern"])
        named = one.get("patternProperties")
        if isinstance(named, dict):
            one["patternProperties"] = {exact(name): value for name, value in named.items()}
        if one.get("format") in ("date", "date-time") and isinstance(one.setdefault("allOf", []), list):
            one["allOf"].append({"pattern": _DATES})


def exact(pattern: str) -> str:
    """A pattern with its classes as JSON schemas mean them, each without the characters that JSON cannot spell."""
    found, place = "", 0
    while place < len(pattern):
        if pattern[place] == "[":
            text, place = _class(pattern, place)
            found += text
        elif pattern[place] == "\\":
            size = _escape(pattern, place)
            text = pattern[place : place + size]
            found += _spelt(f"[{text}]") if text[1:2] in ("p", "P") else text
            place += size
        else:
            found += pattern[place]
            place += 1
    return found


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
