"""The slots of a form: what may stand in each, as a regular expression or as choices, and the value that it then has.

Knows nothing of models or of where a slot stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.errors import OptionError
from mlx_diffusion.option_checks import check_integer

MOST_TOKENS = 32  # of a slot, where nothing is said
_LEAP_YEAR = "([12][0-9](0[48]|[2468][048]|[13579][26])|1200|1600|2[048]00)"
_DAYS = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
PATTERNS: Mapping[str, tuple[str, Callable[[str], Any]]] = {  # what stands there, and how it is read
    "text": (r"[^\s]+", str),
    "integer": ("-?(0|[1-9][0-9]{0,17})", int),
    "number": (r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?", json.loads),
    "date": (f"[12][0-9]{{3}}-{_DAYS}|{_LEAP_YEAR}-02-29", str),  # of the Gregorian calendar, as YYYY-MM-DD
    "regex": ("", str),
}
_FIELDS = {"text": {"max_tokens"}, "regex": {"pattern", "max_tokens"}, "choice": {"choices"}}


@dataclass(frozen=True)
class Slot:
    """What may stand in one place of a form."""

    name: str
    kind: str
    choices: tuple[str, ...] = ()  # all that may stand there, if they are few
    pattern: str = ""  # or what it must match
    max_tokens: int = MOST_TOKENS

    @classmethod
    def read(cls, name: str, given: object) -> Slot:
        """A slot as callers write it: a type, a dict with one, or a list of choices. Raises `OptionError`."""
        where = f"slot {name!r}"
        if isinstance(given, str):
            given = {"type": given}
        if isinstance(given, list | tuple):
            given = {"type": "choice", "choices": given}
        kinds = (*PATTERNS, "boolean", "choice")
        if not isinstance(given, Mapping) or given.get("type") not in kinds:
            raise OptionError(f"{where} is {given!r}; its type must be one of: {', '.join(kinds)}")
        kind, fields = str(given["type"]), {key: value for key, value in given.items() if key != "type"}
        unknown = sorted(map(str, fields.keys() - _FIELDS.get(kind, set())))
        if unknown:
            raise OptionError(f"{where} has {unknown[0]!r}, which a slot of type {kind} has not")
        if kind == "boolean":
            return cls(name, kind, ("true", "false"))
        if kind == "choice":
            return cls(name, kind, _choices(fields.get("choices"), where))
        check_integer(f"max_tokens of {where}", fields.get("max_tokens"), 1)
        most = fields.get("max_tokens") or MOST_TOKENS
        pattern = fields.get("pattern") if kind == "regex" else PATTERNS[kind][0]
        if not isinstance(pattern, str) or not pattern:
            raise OptionError(f"{where} has no pattern; write the regular expression that it must match")
        return cls(name, kind, (), pattern, most)

    def value(self, text: str) -> Any:
        """What a text of this slot stands for."""
        if self.kind == "boolean":
            return text == "true"
        return text if self.kind == "choice" else PATTERNS[self.kind][1](text)


def _choices(given: object, where: str) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise OptionError(f"{where} has no choices; write a list of texts")
    for choice in given:
        if not isinstance(choice, str) or not choice:
            raise OptionError(f"{where} has the choice {choice!r}; each must be text")
        if given.count(choice) > 1:
            raise OptionError(f"{where} has the choice {choice!r} twice; leave one of them out")
    return tuple(given)


def split_template(template: object, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parts of a template between its slots, and the slots' names in order: `{name}` is a slot.

    Other braces are text. Raises `OptionError` for a slot that is missing or stands there twice.
    """
    if not isinstance(template, str):
        raise OptionError(f"the template is of type {type(template).__name__}; pass text with slots, as in {{name}}")
    if not names:
        raise OptionError("there are no slots; say what may stand in each, by name")
    for name in names:
        if not isinstance(name, str):
            raise OptionError(f"a slot is named {name!r}; the names of slots are text")
    marks = "|".join(re.escape(f"{{{name}}}") for name in names)
    found = re.split(f"({marks})", template)
    parts, slots = found[::2], [slot[1:-1] for slot in found[1::2]]
    for name in names:
        if slots.count(name) != 1:
            often = "twice" if slots.count(name) > 1 else "nowhere"
            raise OptionError(f"slot {name!r} stands {often} in the template; write {{{name}}} in it once")
    return parts, slots
