"""Endings of a text that has begun: short ones that its grammar allows, sought letter by letter.

A letter is a byte or a special token. Knows nothing of tokens.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from llguidance import LLMatcher

END = 256  # the letter that stands for the end: a text that may end is told by its matcher
FARTHEST = 1_000_000  # letters of an ending
QUICKLY = (400, 4_000)  # places looked at, at first and at most, of a quick ending
AT_LENGTH = (800, 2_000)  # of a shortest one
TAILS = 64  # letters at the end of an ending that was
BLANKS = tuple(b" \t\r\n")
WORDS = frozenset(string.ascii_letters.encode() + b"_")
BLANK_COST, LEAP_COST = 8, 2  # letters' worth, of a blank, and of a letter that does not go on with a literal
# What closes something comes first, then the shortest values; in free text, where nearly all may follow, its own end.
EARLY = b'}])>;,@:"Zz0.nftaA['
IN_TEXT = b"\"@:/aA0 .-_\n'"
CLOSING = tuple(b"}])>")
DETOURS = (*b"\\", 0xC3)  # letters that may follow, but that others must follow in turn
FREE = 64  # letters that may follow; where there are more, a few stand for all
LITERALS = 1_000  # letters that are told apart, at most
SUFFIX = 4  # of them by which places are told apart


class Reached(NamedTuple):
    """A text that may be gone on with, as the way there from the one before."""

    matcher: LLMatcher
    letters: Sequence[int]
    before: Reached | None
    suffix: tuple[int, ...] = ()  # the last letters

    def way(self) -> list[int]:
        """All letters from the first place."""
        parts = []
        place: Reached | None = self
        while place is not None:
            parts.append(place.letters)
            place = place.before
        return [letter for part in reversed(parts) for letter in part]


def sought_ending(matcher: LLMatcher, literals: bytes, stage: int) -> tuple[list[int] | None, int]:
    """The letters of an ending, None where none is found, and the stage of the search that found it.

    Grammars have their endings in one way or another: begin with the stage that helped before, 0 at first.
    """
    for tried in range(stage, 2 * len(QUICKLY)):
        effort = (QUICKLY, AT_LENGTH)[tried % 2][tried // 2]
        if tried % 2:
            found = shortest_ending(matcher, FARTHEST, literals, effort)
        else:
            found = quick_ending(matcher, literals, effort)
        if found is not None:
            return found, tried
    return None, stage


def quick_ending(matcher: LLMatcher, literals: bytes, effort: int) -> list[int] | None:
    """Letters with which a text is complete, found by closing what can be closed, as soon as it can; None: not so."""
    place, worn = Reached(matcher.deep_copy(), (), None), Worn()
    untried = [(place, _ways(place.matcher, literals, worn=worn))]
    for _ in range(effort):
        if not untried:
            return None
        place, ways = untried[-1]
        if place.matcher.is_accepting():
            return place.way()
        way = next(ways, None)
        if way is None:
            untried.pop()
        else:
            worn[way.before, way.letters[0]] += 1
            place = Reached(way.matcher, way.letters, place)
            untried.append((place, _ways(place.matcher, literals, way.letters[-1], worn)))
    return None


def shortest_ending(matcher: LLMatcher, most: int, literals: bytes, effort: int) -> list[int] | None:
    """The shortest letters, at most so many, with which a text is complete; None where none is found.

    literals: a text whose runs of letters are likely to lead on. Texts of the same length that may go on by the same
    letters to the same places are taken for one, so that odd grammars may have a shorter ending yet.
    """
    serial, seen = count(), set()
    runs: set[tuple[tuple[int, ...], int]] = {((before,), letter) for before, letter in pairwise(literals)}
    heap = [(0, next(serial), 0, Reached(matcher.deep_copy(), (), None))]
    for _ in range(effort):
        if not heap:
            return None
        cost, _, length, place = heappop(heap)
        if place.matcher.is_accepting():
            return place.way()
        ways = list(_ways(place.matcher, literals))
        key = (length, place.suffix, frozenset((way.letters[0], way.kind) for way in ways))
        if key in seen:
            continue
        seen.add(key)
        for way in ways:
            behind = length + len(way.letters)
            if behind <= most:
                price = cost + len(way.letters) + _extra(place.suffix, way.letters, runs)
                suffix = (*place.suffix, *way.letters)[-SUFFIX:] if literals else ()
                heappush(heap, (price, next(serial), behind, Reached(way.matcher, way.letters, place, suffix)))
    return None


def _extra(suffix: Sequence[int], letters: Sequence[int], runs: set[tuple[tuple[int, ...], int]]) -> int:
    """What makes a way unlikely to lead on; one that must be gone costs no more than its letters."""
    if len(letters) > 1:
        return 0
    if letters[0] in BLANKS:
        return BLANK_COST
    return LEAP_COST if runs and (suffix[-1:], letters[0]) not in runs else 0


def is_ending(matcher: LLMatcher, letters: Sequence[int]) -> bool:
    """Whether the text is complete with these letters."""
    if matcher.validate_tokens(list(letters)) < len(letters):
        return False
    following = _after(matcher, letters)
    return following is not None and following.is_accepting()


def tail_that_ends(matcher: LLMatcher, letters: Sequence[int]) -> list[int] | None:
    """The shortest tail of an ending of the text before one more token with which the text now is complete, if any."""
    for size in (*range(min(len(letters), TAILS)), len(letters)):
        tail = list(letters[len(letters) - size :])
        if is_ending(matcher, tail):
            return tail
    return None


Worn = Counter[tuple[bytes, int]]  # how often a letter was taken where the same letters might follow


class Way(NamedTuple):
    """Letters that may follow, and the text with them."""

    before: bytes  # which letters might follow

    letters: Sequence[int]
    matcher: LLMatcher
    kind: tuple[bool, bytes]  # whether it is complete, and which letters may follow


def _ways(matcher: LLMatcher, literals: bytes, before: int = END, worn: Worn | None = None) -> Iterator[Way]:
    """The letters that must follow, or one of each kind that may: what closes first, what changes nothing late.

    Letters after which the same letters may follow are of one kind, but for those among the literals. Of a name's or
    a word's letters, the least worn come first: where an object may hold another of its kind, and that another, a way
    that leads out of it comes in turn.
    """
    forced, mask = matcher.compute_ff_tokens(), matcher.compute_bitmask()
    if END in forced:
        return
    own, seen = (matcher.is_accepting(), mask), set()
    deferred: list[Way] = []
    tries = (
        [forced]
        if forced
        else _tries(letters_in(mask), literals, lambda letter: 0 if worn is None else worn[mask, letter])
    )
    for letters in tries:
        following = _after(matcher, letters)
        if following is None:
            continue
        way = Way(mask, letters, following, (following.is_accepting(), following.compute_bitmask()))
        literal = letters[0] if letters[0] < END and letters[0] in literals[:LITERALS] else None
        if (literal, way.kind) in seen:
            continue
        seen.add((literal, way.kind))
        if letters[0] in DETOURS or (way.kind == own and letters[0] not in CLOSING):
            deferred.append(way)
        else:
            yield way
    yield from sorted(deferred, key=lambda way: (way.letters[0] in DETOURS, _strange(before, way.letters[0], literals)))


def _strange(before: int, letter: int, literals: bytes) -> int:
    """How little a letter looks as if it led on: not so if it goes on with a literal, a little if it begins one."""
    if letter >= END or before >= END:
        return 1
    return 0 if bytes((before, letter)) in literals else 1 if bytes((0, letter)) in b"\0" + literals else 2


def _tries(letters: Sequence[int], literals: bytes, worn: Callable[[int], int]) -> Iterator[list[int]]:
    """Single letters in the order in which they are tried."""
    free, known = len(letters) > FREE, set(letters)
    known.discard(END)
    rest = (letter for letter in letters if letter not in BLANKS)
    special = [letter for letter in letters if letter > END]
    order = dict.fromkeys([*special, *(IN_TEXT if free else EARLY), *literals[:LITERALS], *(() if free else rest)])
    fresh = sorted(order, key=lambda letter: worn(letter) if letter in WORDS else 0)
    return ([letter] for letter in dict.fromkeys([*fresh, *DETOURS, *BLANKS]) if letter in known)


def letters_in(mask: bytes) -> list[int]:
    """The numbers of the bits that are set."""
    found: list[int] = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()
    return found


def _after(matcher: LLMatcher, letters: Sequence[int]) -> LLMatcher | None:
    """A copy with these letters; None where the grammar does not allow them, or is too much for the matcher."""
    following = matcher.deep_copy()
    return following if following.consume_tokens(list(letters)) else None
