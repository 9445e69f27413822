"""A tokenizer's vocabulary as llguidance takes it, and beside it one of single bytes, in which endings are sought.

Knows nothing of constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mlx_diffusion.errors import OptionError
from mlx_diffusion.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

BYTES = 256
_KNOWN: WeakKeyDictionary[Tokenizer, Vocabulary] = WeakKeyDictionary()


@dataclass
class ByteTokens:
    """256 bytes as tokens, a token that ends a text, and special tokens by their names; as llguidance asks for it."""

    specials: Sequence[bytes]

    def __post_init__(self) -> None:
        self.eos_token_id = BYTES
        self.bos_token_id = None
        self.tokens = [*(bytes([value]) for value in range(BYTES)), b"<|end of the text|>", *self.specials]
        self.special_token_ids = list(range(BYTES, len(self.tokens)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens, and the same text in single bytes: a special token is one of them in both."""

    tokens: LLTokenizer
    letters: LLTokenizer
    specials: tuple[int, ...]  # the tokens of which `letters` has its own, behind the bytes and the end

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """The vocabulary of a tokenizer, read once. Raises OptionError for one of another kind than Gemma's."""
        if tokenizer not in _KNOWN:
            from llguidance import LLTokenizer, TokenizerWrapper

            try:
                tokens = LLTokenizer(tokenizer.as_json())
            except ValueError as error:
                raise OptionError(
                    f"llguidance cannot read this checkpoint's tokenizer ({error}); drop constraint"
                ) from None
            specials = tuple(token for token in range(tokens.vocab_size) if tokens.is_special_token(token))
            named = ByteTokens([tokenizer.decode([token]).encode() for token in specials])
            _KNOWN[tokenizer] = cls(tokens, LLTokenizer(TokenizerWrapper(named)), specials)
        return _KNOWN[tokenizer]

    def letters_of(self, token: int) -> list[int]:
        """A token in the letters of `letters`."""
        if self.tokens.is_special_token(token):
            return [BYTES + 1 + self.specials.index(token)]
        return list(self.tokens.decode_bytes([token]))

    def tokens_of(self, letters: Sequence[int]) -> list[int]:
        """Letters in few tokens."""
        found: list[int] = []
        run = bytearray()
        for letter in letters:
            if letter < BYTES:
                run.append(letter)
            else:
                found += [*self.tokens.tokenize_bytes(bytes(run)), self.specials[letter - BYTES - 1]]
                run.clear()
        return found + self.tokens.tokenize_bytes(bytes(run))
