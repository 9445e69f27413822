"""The strings of a tool call as terminals of a grammar: any text without a quote, as a JSON schema narrows it.

Knows nothing of other values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlx_diffusion.errors import OptionError
from mlx_diffusion.structure.json_patterns import DATE, parts_of
from mlx_diffusion.visible_text import shown

QUOTE = '<|"|>'  # a token of its own; spelt in other tokens, it would end the string all the same
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(25[0-5]|(2[0-4]|1[0-9]|[1-9])?[0-9])"
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_SEGMENT = "[a-zA-Z0-9._~!$&'()*+,;=:@-]*"
FORMATS = {  # as the usual texts of each are, where there are odd ones, too
    "date": DATE,
    "time": _TIME,
    "date-time": f"{DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,3}}",
    "email": rf"[a-zA-Z0-9_%+-]+(\.[a-zA-Z0-9_%+-]+)*@{_LABEL}(\.{_LABEL}){{1,3}}",
    "uri": rf"[a-z][a-z0-9+.-]{{0,15}}://{_LABEL}(\.{_LABEL}){{0,3}}(:[0-9]{{1,5}})?(/{_SEGMENT})*(\?{_SEGMENT})?",
}


def content(schema: Mapping[str, Any], where: str) -> str:
    """The body of a terminal for what stands between the quotes. Raises OptionError."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    length = f"{{{int(least)},{'' if most is None else int(most)}}}"
    parts = [f"/(?s:.{length})/", r'~/(?s:.*)<\|"\|>(?s:.*)/']
    if "pattern" in schema:
        parts.append(_slashed(anchored(schema["pattern"])))
    if "format" in schema:
        if schema["format"] not in FORMATS:
            known = ", ".join(FORMATS)
            raise OptionError(f"constraint {where} has the format {shown(schema['format'])}; tools may have {known}")
        parts.append(_slashed(FORMATS[schema["format"]]))
    return " & ".join(parts)


def quoted(text: str, where: str) -> str:
    """One string, quotes and all. Raises OptionError."""
    if QUOTE in text:
        raise OptionError(f"constraint {where} has {shown(text)}, which a call cannot spell; leave out {QUOTE}")
    return f"{QUOTE} {literal(text)} {QUOTE}" if text else f"{QUOTE} {QUOTE}"


def literal(text: str) -> str:
    """A text as Lark spells it: as JSON does, but for the one control character that its lexer refuses."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")


def anchored(pattern: str) -> str:
    """An expression that matches, as a whole, the texts in which a JSON schema's pattern is found."""
    alternatives: list[list[str]] = [[]]
    depth = 0
    for part in parts_of(pattern):
        depth += (part == "(") - (part == ")")
        if part == "|" and not depth:
            alternatives.append([])
        else:
            alternatives[-1].append(part)
    return "|".join(map(_whole, alternatives))


def _whole(parts: list[str]) -> str:
    before = "" if parts[:1] == ["^"] else "(?s:.*)"
    after = "" if parts[-1:] == ["$"] else "(?s:.*)"
    inner = parts[not before : len(parts) - (not after)]
    return f"{before}(?:{''.join(inner)}){after}"


def _slashed(pattern: str) -> str:
    """An expression as Lark spells it."""
    spelt = re.sub(r"(?s)\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], pattern)
    return "/" + spelt.replace("\n", r"\n").replace("\r", r"\r") + "/"
