"""A matcher that goes on and comes back, so that many ways are tried on one.

Knows nothing of what is sought.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Pathfinder:
    """One letter more or less takes a microsecond, where a copy of the matcher takes as long as there is text."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._origin, self.matcher = matcher, matcher.deep_copy()
        self.way: list[int] = []  # from where it was at first

    def take(self, letters: Sequence[int]) -> bool:
        """Go on by letters; False where the grammar does not allow them, or is too much for the matcher."""
        if self.matcher.consume_tokens(list(letters)):
            self.way += letters
            return True
        self.matcher = self._origin.deep_copy()  # the other one has failed for good
        self.matcher.consume_tokens(self.way)
        return False

    def back(self, count: int) -> None:
        """Come back by so many letters."""
        if count:
            self.matcher.rollback(count)
            del self.way[-count:]

    def go(self, way: Sequence[int]) -> bool:
        """Be at the end of another way; False where it cannot be gone."""
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.way, way, strict=False)))
        self.back(len(self.way) - same)
        return self.take(way[same:])
