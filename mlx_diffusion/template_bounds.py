"""The bounds of a template's rendering: what its loops, calls and texts are charged, and when that is too much.

Knows nothing of Jinja.
"""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from itertools import islice
from typing import Any

MOST_WORK = 50_000_000  # characters and iterations of one rendering, together
MOST_SECONDS = 5.0  # of this thread's own computing
WIDENING = {"center", "ljust", "rjust", "zfill", "expandtabs", "batch", "slice", "indent", "tojson", "to_bytes"}
WIDENING |= {"round", "wordwrap"}
WORDY = {"lipsum", "generate_lorem_ipsum"}
LONGEST_PARAGRAPH, LONGEST_WORD = 100, 12  # words, and characters with the space, unless a call says otherwise
MULTIPLYING = {"replace", "join", "indent", "wordwrap"}
FORMATTING = {"format", "format_map"}
WIDE_FIELD = re.compile(r"\d{6}|%[-+ #0]*\*|%[^%a-zA-Z]*\.\*|\{[^{}]*\{")


class TooMuchWork(Exception):
    """A rendering that went over its bounds."""


class WorkMeter:
    """The work of one rendering."""

    def __init__(self) -> None:
        self._work = 0
        self._deadline = time.thread_time() + MOST_SECONDS

    def charge(self, work: int) -> None:
        self._work += work
        if self._work > MOST_WORK or time.thread_time() > self._deadline:
            raise TooMuchWork("it makes too much text or takes too long")


METER: ContextVar[WorkMeter | None] = ContextVar("meter", default=None)


def charge(work: int) -> None:
    if work > MOST_WORK:
        raise TooMuchWork("it makes too much text or takes too long")
    meter = METER.get()
    if meter is not None:
        meter.charge(work)


def counted(parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        charge(len(part))
        yield part


def size_of(value: Any) -> int:
    """About as many characters as `value` has as text, or more."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int):
        return value.bit_length()
    if isinstance(value, Mapping):
        return sum(size_of(key) + size_of(item) + 1 for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, range):
        return sum(size_of(item) + 1 for item in value)
    return len(value) if hasattr(value, "__len__") else 1


def bounded(items: Any, weight: int) -> Any:
    """What a loop runs over, charged before it runs."""
    if not hasattr(items, "__len__"):
        items = list(islice(items, MOST_WORK // weight + 1))
    charge(1 + len(items) * weight)
    return items


def concat(items: Sequence[Any]) -> str:
    texts = [str(item) for item in items]
    charge(sum(map(len, texts)))
    return "".join(texts)


def finalize(value: Any) -> Any:
    charge(len(value) if isinstance(value, str) else size_of(value))
    return value


def charge_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Charge a filter or a method of text for the most that it could make of its arguments."""
    values = [*args, *kwargs.values()]
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            charge(abs(value) if name in WIDENING else 0)
    if name in WORDY:
        wide = [abs(value) for value in values if isinstance(value, int) and not isinstance(value, bool)]
        charge(math.prod(value or 1 for value in (*wide, LONGEST_PARAGRAPH, LONGEST_WORD)))
    if name in MULTIPLYING:
        texts = [size_of(list(value) if hasattr(value, "__next__") else value) + 1 for value in values]
        product = 1
        for size in sorted(texts, reverse=True)[:2]:
            product *= size
        charge(product if product > MOST_WORK and not _really_fits(name, values) else 0)
        charge(sum(texts))
    if name in FORMATTING and any(WIDE_FIELD.search(value) for value in values if isinstance(value, str)):
        raise TooMuchWork("it formats a field of too many characters")


def _really_fits(name: str, values: Sequence[Any]) -> bool:
    """True if a replacement or a join makes less than its arguments let fear."""
    if name == "replace" and len(values) >= 3 and all(isinstance(value, str) for value in values[:3]):
        text, old, new = values[:3]
        return (text.count(old) + 1) * (len(new) + 1) + len(text) <= MOST_WORK
    return False
