"""Endings of a text that has begun: short ones that its grammar allows, sought letter by letter.

A letter is a byte or a special token. Knows nothing of tokens.
"""

from __future__ import annotations

import string
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from itertools import count, pairwise, takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlx_diffusion.structure.pathfinder import Pathfinder

if TYPE_CHECKING:
    from llguidance import LLMatcher

END = 256  # the letter that stands for the end: a text that may end is told by its matcher
FARTHEST = 1_000_000  # letters of an ending
QUICKLY = (400, 4_000, 100_000)  # places looked at, at first and at most, of a quick ending
AT_LENGTH = (800, 4_000, 20_000)  # of a shortest one
SECONDS = 2.0  # of the processor, of a search: most take a thousandth
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
PATIENCE = 3  # times that a letter is taken where nothing changes, before others are
SUFFIX = 4  # of them by which places are told apart


class Reached(NamedTuple):
    """A text that may be gone on with, as the way there from the one before."""

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
    until = time.thread_time() + SECONDS
    for tried in range(stage, 2 * len(QUICKLY)):
        effort = Effort((QUICKLY, AT_LENGTH)[tried % 2][tried // 2], until)
        if tried % 2:
            found = shortest_ending(matcher, FARTHEST, literals, effort)
        else:
            found = quick_ending(matcher, literals, effort)
        if found is not None:
            return found, tried
    return None, stage


class Effort(NamedTuple):
    """How long to search."""

    places: int  # looked at, at most
    until: float  # when to give up, by the thread's own time

    def spent(self) -> Iterator[int]:
        """The numbers of the places, as long as there is time."""
        return takewhile(lambda _: time.thread_time() < self.until, range(self.places))

    @classmethod
    def brief(cls) -> Effort:
        """That of a first try to find the shortest ending."""
        return cls(AT_LENGTH[0], time.thread_time() + SECONDS)


def quick_ending(matcher: LLMatcher, literals: bytes, effort: Effort) -> list[int] | None:
    """Letters with which a text is complete, found by closing what can be closed, as soon as it can; None: not so."""
    probe = Pathfinder(matcher)
    worn: Worn = defaultdict(Counter)
    untried: list[tuple[Sequence[int], Iterator[Way]]] = [((), _ways(probe, literals, worn))]
    for _ in effort.spent():
        if not untried:
            return None
        if probe.matcher.is_accepting():
            return probe.way
        letters, ways = untried[-1]
        way = next(ways, None)
        if way is None:
            untried.pop()
            probe.back(len(letters))
        elif probe.take(way.letters):
            worn[way.before][way.letters[0]] += 1
            untried.append((way.letters, _ways(probe, literals, worn)))
    return None


def shortest_ending(matcher: LLMatcher, most: int, literals: bytes, effort: Effort) -> list[int] | None:
    """The shortest letters, at most so many, with which a text is complete; None where none is found.

    literals: a text whose runs of letters are likely to lead on. Texts of the same length that may go on by the same
    letters to the same places are taken for one, so that odd grammars may have a shorter ending yet.
    """
    serial, seen, probe = count(), set(), Pathfinder(matcher)
    runs: set[tuple[tuple[int, ...], int]] = {((before,), letter) for before, letter in pairwise(literals)}
    heap = [(0, next(serial), 0, Reached((), None))]
    for _ in effort.spent():
        if not heap:
            return None
        cost, _, length, place = heappop(heap)
        if not probe.go(place.way()):
            continue
        if probe.matcher.is_accepting():
            return probe.way
        ways = list(_ways(probe, literals))
        key = (length, place.suffix, frozenset((way.letters[0], way.kind) for way in ways))
        if key in seen:
            continue
        seen.add(key)
        for way in ways:
            behind = length + len(way.letters)
            if behind <= most:
                price = cost + len(way.letters) + _extra(place.suffix, way.letters, runs)
                suffix = (*place.suffix, *way.letters)[-SUFFIX:] if literals else ()
                heappush(heap, (price, next(serial), behind, Reached(way.letters, place, suffix)))
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
    probe = Pathfinder(matcher)
    return probe.take(letters) and probe.matcher.is_accepting()


def tail_that_ends(matcher: LLMatcher, letters: Sequence[int]) -> list[int] | None:
    """The shortest tail of an ending of the text before one more token with which the text now is complete, if any."""
    for size in (*range(min(len(letters), TAILS)), len(letters)):
        tail = list(letters[len(letters) - size :])
        if is_ending(matcher, tail):
            return tail
    return None


Worn = Mapping[bytes, Counter[int]]  # how often letters were taken, by which of them might follow


class Way(NamedTuple):
    """Letters that may follow."""

    before: bytes  # which letters might follow
    letters: Sequence[int]
    kind: tuple[bool, bytes]  # whether the text is complete with them, and which letters may follow then


def _ways(probe: Pathfinder, literals: bytes, worn: Worn | None = None) -> Iterator[Way]:
    """The letters that must follow, or one of each kind that may: what closes first, what changes nothing late.

    Letters after which the same letters may follow are of one kind, but for those among the literals. Of the letters
    of words, the least worn come first: where an object may hold another of its kind, and that another, a way that
    leads out of it comes in turn. The probe is where it was whenever a way is asked for.
    """
    matcher, before = probe.matcher, probe.way[-1] if probe.way else END
    forced, mask = list(takewhile(lambda letter: letter != END, matcher.compute_ff_tokens())), matcher.compute_bitmask()
    own, seen = (matcher.is_accepting(), mask), set()
    deferred: list[Way] = []
    for letters in [forced] if forced else _tries(mask, literals, worn):
        if not probe.take(letters):
            continue
        way = Way(mask, letters, (probe.matcher.is_accepting(), probe.matcher.compute_bitmask()))
        probe.back(len(letters))
        literal = letters[0] if letters[0] < END and letters[0] in literals[:LITERALS] else None
        if (literal, way.kind) in seen:
            continue
        seen.add((literal, way.kind))
        if letters[0] in DETOURS or (way.kind == own and letters[0] not in CLOSING):
            deferred.append(way)
        else:
            yield way
    used = Counter[int]() if worn is None else worn.get(mask, Counter())

    def late(way: Way) -> tuple[bool, int, int]:
        letter = way.letters[0]
        return letter in DETOURS, used[letter] // PATIENCE, _strange(before, letter, literals)

    yield from sorted(deferred, key=late)


def _strange(before: int, letter: int, literals: bytes) -> int:
    """How little a letter looks as if it led on: not so if it goes on with a literal, a little if it begins one."""
    if letter >= END or before >= END:
        return 1
    begins = literals[:1] == bytes((letter,)) or bytes((0, letter)) in literals
    return 0 if bytes((before, letter)) in literals else 1 if begins else 2


def _tries(mask: bytes, literals: bytes, worn: Worn | None) -> Iterator[list[int]]:
    """Single letters in the order in which they are tried."""
    likely, late = _order(mask, literals)
    used = None if worn is None else worn.get(mask)
    if used is not None:
        words = iter(sorted((letter for letter in likely if letter in WORDS), key=used.__getitem__))
        likely = tuple(next(words) if letter in WORDS else letter for letter in likely)
    return ([letter] for letter in (*likely, *late))


@lru_cache(1024)
def _order(mask: bytes, literals: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The letters that are likely to end something soon, and those that are not."""
    letters = letters_in(mask)
    known = set(letters) - {END}
    special = [letter for letter in letters if letter > END]
    told = literals[:LITERALS].replace(b"\0", b"")
    order = [*IN_TEXT, *told] if len(letters) > FREE else [*EARLY, *told, *letters]
    late = dict.fromkeys(letter for letter in (*DETOURS, *BLANKS) if letter in known and letter not in told)
    likely = dict.fromkeys(letter for letter in (*special, *order) if letter in known and letter not in late)
    return tuple(likely), tuple(late)


def letters_in(mask: bytes) -> list[int]:
    """The numbers of the bits that are set."""
    found: list[int] = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()
    return found
