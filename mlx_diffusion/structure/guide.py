"""A row's place in the texts that its constraint allows: which tokens may follow, which must, and how it can still end.

Behind a thought, where the model thinks before it answers: what is constrained is the answer. Knows nothing of models,
logits or rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlx_diffusion.channels import markers_of
from mlx_diffusion.errors import OptionError
from mlx_diffusion.structure.constraint import Constraint
from mlx_diffusion.structure.endings import AT_LENGTH, shortest_ending, sought_ending, tail_that_ends
from mlx_diffusion.structure.vocabulary import Vocabulary
from mlx_diffusion.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

Phase = Literal["may think", "thinks", "answers"]
WORD = 32  # tokens of a mask's word


@dataclass(frozen=True)
class Frame:
    """What a guide knows beside its constraint: the vocabulary, and the tokens with a meaning of their own."""

    vocabulary: Vocabulary
    words: int  # of a mask
    stops: frozenset[int]  # tokens that end a text
    opens: int | None  # the token that opens a thought, and the one that closes it
    closes: int | None
    literals: bytes  # what a constraint spells

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
        self._letters = letters  # behind the tokens that must follow
        self._allowed: np.ndarray | None = None
        self._forced: list[int] = []
        self._ending: list[int] | None = None  # letters, behind the tokens that must follow
        self._stage = 0  # of the search for it
        if phase == "answers":
            self._look_ahead()

    def copied(self) -> Guide:
        """Another guide at the same place."""
        other = copy(self)
        other._matcher, other._letters = self._matcher.deep_copy(), self._letters.deep_copy()
        other._forced = list(self._forced)
        return other

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that must follow; there may be none, and others behind them."""
        return self._forced

    @property
    def complete(self) -> bool:
        """Whether nothing but a stop token may follow."""
        return self.stopped or (self.phase == "answers" and not self._forced and self._matcher.is_stopped())

    @property
    def goes_on(self) -> bool:
        """Whether the text is complete or something may follow: else the grammar is too much for the matcher."""
        return self.complete or bool(self.allowed().any())

    def allowed(self) -> np.ndarray:
        """The tokens that may follow as bits, uint32 [words], bit t % 32 of word t // 32 being token t."""
        if self._allowed is None:
            self._allowed = self._found()
        return self._allowed

    def _found(self) -> np.ndarray:
        frame = self.frame
        if self._forced:
            return frame.bits(self._forced[:1])
        if self.phase == "thinks":
            special = frame.vocabulary.specials
            assert frame.closes is not None
            return ~frame.bits([*special, *frame.stops]) & self._known() | frame.bits([frame.closes])
        mask = np.zeros(frame.words, np.uint32)
        found = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: frame.words]
        mask[: len(found)] = found
        mask &= ~frame.bits([*frame.stops, frame.vocabulary.tokens.eos_token])
        if self._matcher.is_accepting():
            mask |= frame.bits(frame.stops)
        if self.phase == "may think" and frame.opens is not None:
            mask |= frame.bits([frame.opens])
        return mask

    def allows(self, token: int) -> bool:
        """Whether a token may follow."""
        return bool(self.allowed()[token // WORD] >> np.uint32(token % WORD) & np.uint32(1))

    def take(self, token: int) -> bool:
        """Go on by a token that is allowed; False where the grammar becomes too much for the matcher."""
        frame, self._allowed = self.frame, None
        if self._forced:
            assert token == self._forced.pop(0)
            taken = self._matcher.consume_token(token)
            if not self._forced:
                self._look_ahead()
            return taken
        if self.phase == "thinks" or (self.phase == "may think" and token == frame.opens):
            self.phase = "answers" if token == frame.closes else "thinks"
            if self.phase == "answers":
                self._look_ahead()
            return True
        self.phase = "answers"
        if token in frame.stops:
            self.stopped = True
            return True
        letters = frame.vocabulary.letters_of(token)
        taken = self._matcher.consume_token(token) and self._letters.consume_tokens(letters)
        if taken:
            self._end_behind(letters)
            self._look_ahead()
        return taken

    def ending(self) -> list[int] | None:
        """The tokens of a shortest ending; None where none is found."""
        if self.stopped:
            return []
        if self._ending is None:
            self._ending, self._stage = sought_ending(self._letters, self.frame.literals, self._stage)
        if self._ending is None:
            return None
        closes = self.frame.closes
        close = [closes] if self.phase == "thinks" and closes is not None else []
        return [*close, *self._forced, *self.frame.vocabulary.tokens_of(self._ending)]

    def fits(self, room: int) -> bool:
        """Whether so many tokens are enough to end the text."""
        if self.stopped:
            return room >= 0
        ending = self.ending()
        if ending is not None and self._ending is not None and len(ending) > room:
            shorter = shortest_ending(self._letters, len(self._ending) - 1, self.frame.literals, AT_LENGTH[0])
            self._ending = self._ending if shorter is None else shorter
            ending = self.ending()
        return ending is not None and len(ending) <= room

    def _known(self) -> np.ndarray:
        """The tokens that stand for something: the tokenizer may have fewer than the model."""
        mask = np.zeros(self.frame.words, np.uint32)
        size = self.frame.vocabulary.tokens.vocab_size
        mask[: size // WORD] = np.uint32(0xFFFFFFFF)
        return mask | self.frame.bits(range(size - size % WORD, size))

    def _look_ahead(self) -> None:
        """Find the tokens that must follow."""
        end = self.frame.vocabulary.tokens.eos_token
        self._forced = list(takewhile(lambda token: token != end, self._matcher.compute_ff_tokens()))
        letters = [letter for token in self._forced for letter in self.frame.vocabulary.letters_of(token)]
        if letters:
            self._letters.consume_tokens(letters)
            self._end_behind(letters)

    def _end_behind(self, letters: Sequence[int]) -> None:
        """Take the ending from before these letters over, as far as it goes on to be one."""
        old = self._ending
        if old is None:
            return
        if old[: len(letters)] == list(letters):
            self._ending = old[len(letters) :]
        else:
            self._ending = tail_that_ends(self._letters, old)


def first_guide(
    constraint: Constraint, tokenizer: Tokenizer, vocab_size: int, stops: Collection[int], prompt: Sequence[int]
) -> Guide:
    """The guide at the beginning of what follows a prompt. Raises OptionError for a grammar that cannot be held."""
    from llguidance import LLMatcher

    vocabulary = Vocabulary.of(tokenizer)
    matcher = LLMatcher(vocabulary.tokens, constraint.grammar, log_level=0)
    letters = LLMatcher(vocabulary.letters, constraint.grammar, log_level=0)
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
    """The first lines of what llguidance says, as one."""
    return " ".join(error.split("<state>")[0].split(". Enable")[0].split())
