"""Regular expressions of a user's suite, matched within a bound on time.

Python's `re` cannot be stopped: on a pattern with repeats of repeats it may take years, holds the interpreter and hears
no interrupt. The `regex` library takes the same patterns and a time. Knows nothing of suites.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import regex

LONGEST = 10_000  # characters; a longer one takes long to be read already
SECONDS = 1.0  # for one answer


class TooSlow(Exception):
    """A match that was given up."""


def compiled(pattern: object) -> Callable[[str], bool]:
    """A function that is true for the texts that the pattern matches as a whole, and raises `TooSlow` after `SECONDS`.

    Raises ValueError for what is no regular expression of Python's.
    """
    if not isinstance(pattern, str):
        raise ValueError("it must be text")
    if len(pattern) > LONGEST:
        raise ValueError(f"it has {len(pattern):,} characters, and {LONGEST:,} are the most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what later versions may read otherwise
            re.compile(pattern)
            found = regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None

    def matches(text: str) -> bool:
        try:
            return found.fullmatch(text, timeout=SECONDS, concurrent=True) is not None
        except TimeoutError:
            raise TooSlow(f"takes more than {SECONDS:g} s on an answer") from None

    return matches
