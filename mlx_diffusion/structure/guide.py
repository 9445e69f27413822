"""A row's place in the texts that its constraint allows: which tokens may follow, which must, and how it can still end.

Behind a thought, where the model thinks before it answers: what is constrained is the answer. Knows nothing of models,
logits or rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlx_diffusion.channels import markers_of
from mlx_diffusion.errors import OptionError
from mlx_diffusion.structure.constraint import Constraint
from mlx_diffusion.structure.endings import Effort, shortest_ending, sought_ending, tail_that_ends
from mlx_diffusion.structure.vocabulary import Vocabulary
from mlx_diffusion.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

Phase = Literal["may think", "thinks", "answers"]
LONGEST_REASON = 300  # characters
MOST_ITEMS = 100_000  # that a parser follows at once: 5 ms' work
WORD = 32  # tokens of a mask's word


@dataclass(frozen=True, eq=False)
class Frame:
    """What a guide knows beside its constraint: the vocabulary, and the tokens with a meaning of their own."""

    vocabulary: Vocabulary
    words: int  # of a mask
    stops: frozenset[int]  # tokens that end a text
    opens: int | None  # the token that opens a thought, and the one that closes it
    closes: int | None
    literals: bytes  # what a constraint spells

    @cached_property
    def without_ends(self) -> np.ndarray:
        """All tokens but those that end a text, for us or for llguidance."""
        return ~self.bits([*self.stops, self.vocabulary.tokens.eos_token])

    @cached_property
    def in_thoughts(self) -> np.ndarray:
        """The tokens of a thought: those of text, and the one that closes it."""
        size = self.vocabulary.tokens.vocab_size
        text = self.bits(set(range(size)) - set(self.vocabulary.specials) - self.stops)
        return text if self.closes is None else text | self.bits([self.closes])

    def bits(self, tokens: Collection[int]) -> np.ndarray:
        """A mask of these tokens, uint32 [words]."""
        mask = np.zeros(self.words, np.uint32)
        for token in tokens:
            mask[token // WORD] |= np.uint32(1 << token % WORD)
        return mask


class Guide:
    """Where a text stands. `take` goes on by a token; `copied` is another guide at the same place, at little cost."""

    def __init__(self, frame: Frame, matcher: LLMatcher, letters: LLMatcher, phase: Phase) -> None:
        self.frame, self.phase = frame, phase
        self.stopped = False  # a stop token was taken
        self._matcher = matcher
        self._letters = letters  # the same place, or some tokens before it
        self._behind: list[int] = []  # those tokens
        self._allowed: np.ndarray | None = None  # None: not asked for yet, as with what must follow
        self._forced: list[int] | None = None
        self._ending: list[int] | None = None  # letters, from where `_letters` is
        self._sought = False  # the ending, from there
        self._stage = 0  # of the search for it

    def copied(self) -> Guide:
        """Another guide at the same place."""
        other = copy(self)
        other._matcher, other._letters = self._matcher.deep_copy(), self._letters.deep_copy()
        other._behind = list(self._behind)
        return other

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that must follow; there may be none, and others behind them."""
        if self._forced is None:
            answers, end = self.phase == "answers" and not self.stopped, self.frame.vocabulary.tokens.eos_token
            found = self._matcher.compute_ff_tokens() if answers else []
            self._forced = list(takewhile(lambda token: token != end, found))
        return self._forced

    @property
    def complete(self) -> bool:
        """Whether nothing but a stop token may follow."""
        return self.stopped or (self.phase == "answers" and self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def goes_on(self) -> bool:
        """Whether the text is complete or something may follow: else the grammar is too much for the matcher."""
        return self.complete or bool(self.allowed().any())

    def allowed(self) -> np.ndarray:
        """The tokens that may follow as bits, uint32 [words], bit t % 32 of word t // 32 being token t."""
        if self._allowed is None:
            self._allowed = self.frame.bits(self.forced[:1]) if self.forced else self._found()
        return self._allowed

    def allows(self, token: int) -> bool:
        """Whether a token may follow."""
        return bool(self.allowed()[token // WORD] >> np.uint32(token % WORD) & np.uint32(1))

    def take(self, token: int) -> bool:
        """Go on by a token that is allowed; False where the grammar becomes too much for the matcher."""
        frame, forced = self.frame, self._forced
        self._allowed, self._forced = None, None if forced is None else forced[1:] or None
        if self.phase == "thinks" or (self.phase == "may think" and token == frame.opens):
            self.phase = "answers" if token == frame.closes else "thinks"
            return True
        self.phase = "answers"
        if token in frame.stops:
            self.stopped = True
            return True
        self._behind.append(token)
        return self._matcher.consume_token(token)

    def advance(self, tokens: Sequence[int]) -> int:
        """Go on by as many of these tokens as may follow, however the text is cut into tokens; how many that were."""
        count = 0
        while count < len(tokens) and self.phase != "answers" and self.allows(tokens[count]):
            self.take(tokens[count])
            count += 1
        if count == len(tokens) or self.phase != "answers" or self.complete:
            return count
        rest = list(takewhile(lambda token: token not in self.frame.stops, tokens[count:]))
        taken = self._matcher.try_consume_tokens(rest)
        self._allowed, self._forced = None, None
        self._behind += rest[:taken]
        count += taken
        if taken == len(rest) < len(tokens[count - taken :]) and self._matcher.is_accepting():
            self.stopped = True
            count += 1
        return count

    def ending(self) -> list[int] | None:
        """The tokens of a shortest ending; None where none is found."""
        if self.stopped:
            return []
        if not self._has_ending():
            return None
        assert self._ending is not None
        closes, forced = self.frame.closes, self.forced
        close = [closes] if self.phase == "thinks" and closes is not None else []
        rest = self._ending[len(self._letters_of(forced)) :]
        return [*close, *forced, *self.frame.vocabulary.tokens_of(rest)]

    def fits(self, room: int) -> bool:
        """Whether so many tokens are enough to end the text."""
        if not self.stopped and self._has_ending() and len(self._ending or ()) < room:
            return True  # no token has less than a letter, and a thought is closed by one
        ending = self.ending()
        if ending is not None and self._ending and len(ending) > room:
            shorter = shortest_ending(self._letters, len(self._ending) - 1, self.frame.literals, Effort.brief())
            self._ending = self._ending if shorter is None else shorter
            ending = self.ending()
        return ending is not None and len(ending) <= room

    def _has_ending(self) -> bool:
        """Find an ending, unless the one from before will do."""
        self._catch_up()
        if self._ending is None and not self._sought:
            self._sought = True
            self._ending, self._stage = sought_ending(self._letters, self.frame.literals, self._stage)
        return self._ending is not None

    def _found(self) -> np.ndarray:
        frame = self.frame
        if self.phase == "thinks":
            return frame.in_thoughts
        mask = np.zeros(frame.words, np.uint32)
        found = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: frame.words]
        mask[: len(found)] = found
        mask &= frame.without_ends
        if self._matcher.is_accepting():
            mask |= frame.bits(frame.stops)
        if self.phase == "may think" and frame.opens is not None:
            mask |= frame.bits([frame.opens])
        return mask

    def _catch_up(self) -> None:
        """Bring the letters to the same place, and the ending from before as far as it goes on to be one."""
        if not self._behind:
            return
        letters = self._letters_of(self._behind)
        self._letters.consume_tokens(letters)
        self._behind, self._sought = [], False
        if self._ending is not None and self._ending[: len(letters)] == letters:
            self._ending = self._ending[len(letters) :]
        elif self._ending is not None:
            self._ending = tail_that_ends(self._letters, self._ending)

    def _letters_of(self, tokens: Sequence[int]) -> list[int]:
        return [letter for token in tokens for letter in self.frame.vocabulary.letters_of(token)]


def first_guide(
    constraint: Constraint, tokenizer: Tokenizer, vocab_size: int, stops: Collection[int], prompt: Sequence[int]
) -> Guide:
    """The guide at the beginning of what follows a prompt. Raises OptionError for a grammar that cannot be held."""
    from llguidance import LLMatcher, LLParserLimits

    vocabulary = Vocabulary.of(tokenizer)
    limits = LLParserLimits(max_items_in_row=MOST_ITEMS, step_max_items=MOST_ITEMS)
    matcher = LLMatcher(vocabulary.tokens, constraint.grammar, log_level=0, limits=limits)
    letters = LLMatcher(vocabulary.letters, constraint.grammar, log_level=0, limits=limits)
    for one in (matcher, letters):
        if one.is_error():
            raise OptionError(f"constraint {constraint.kind} cannot be held: {_reason(one.get_error())}")
    ids = {marker: token for token, marker in markers_of(tokenizer).items()}
    opens, closes, thinks = (ids.get(marker) for marker in ("<|channel>", "<channel|>", "<|think|>"))
    frame = Frame(vocabulary, -(-vocab_size // WORD), frozenset(stops), opens, closes, constraint.literals)
    return Guide(frame, matcher, letters, _phase(prompt, opens, closes, thinks))


def _phase(prompt: Sequence[int], opens: int | None, closes: int | None, thinks: int | None) -> Phase:
    """Whether a thought may come first: the prompt leaves one open, or asks for one."""
    if opens is None or closes is None:
        return "answers"
    marks = [token for token in prompt if token in (opens, closes)]
    if marks and marks[-1] == opens:
        return "thinks"
    return "may think" if thinks is not None and thinks in prompt and prompt[-1] != closes else "answers"


def _reason(error: str) -> str:
    """The first lines of what llguidance says, as one; of much, how it begins and ends."""
    said = " ".join(re.split("<state>|<backtrace>|[.] Enable", error)[0].split())
    return said if len(said) <= LONGEST_REASON else f"{said[:200]} … {said[-90:]}"
