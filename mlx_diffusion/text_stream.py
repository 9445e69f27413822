"""The text of tokens that arrive in parts: what is certain of it so far, up to a string that ends it.

Knows nothing of models, nor of why tokens arrive as they do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mlx_diffusion.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
WINDOW = 64  # tokens that a stream keeps at most, but for runs of bytes and the like


class TextStream:
    """The text of a token sequence that arrives in parts: the parts joined are the text of the whole.

    Text that later tokens may still change is held back: a run of byte tokens, which make characters only together, and
    a character that a byte-level tokenizer has cut in two. `hidden` tokens (stop tokens, padding) give no text.
    """

    def __init__(self, tokenizer: Tokenizer, hidden: Collection[int] = ()):
        self._tokenizer = tokenizer
        self._hidden = frozenset(hidden)
        self._tokens: list[int] = []
        self._given = 0  # characters

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """Add tokens and return the text that is now certain; with `last`, also what was held back."""
        self._tokens += [token for token in tokens if token not in self._hidden]
        certain = len(self._tokens)
        while not last and certain and self._tokenizer.is_byte(self._tokens[certain - 1]):
            certain -= 1
        text = self._tokenizer.decode(self._tokens[:certain])
        if not last:
            text = text.rstrip(REPLACEMENT)
        new = text[self._given :]
        self._given += len(new)
        if certain == len(self._tokens) > WINDOW:
            self._forget(text)
        return new

    def _forget(self, text: str) -> None:
        """Drop old tokens, so that a long text costs no more a token than a short one; `text` is that of all."""
        rest = self._tokens[-WINDOW // 4 :]
        tail = "" if self._tokenizer.is_byte(rest[0]) else self._tokenizer.decode(rest)
        if tail.strip() and text.endswith(tail) and self._given == len(text):
            self._tokens, self._given = rest, len(tail)


class UntilStop:
    """Text that arrives in parts and ends before a stop string; what may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False  # a stop string has come
        self._stops = stops
        self._held = ""

    def push(self, new: str, *, last: bool = False) -> str:
        """Add some text and return what is now certain; with `last`, also what was held back."""
        if self.stopped:
            return ""
        text = self._held + new
        found = min((place for place in map(text.find, self._stops) if place >= 0), default=None)
        if found is not None:
            self.stopped, self._held = True, ""
            return text[:found]
        held = 0 if last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


class StopText:
    """A text stream that ends before a stop string."""

    def __init__(self, stream: TextStream, stops: Sequence[str]) -> None:
        self._stream, self._until = stream, UntilStop(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._until.stopped

    def push(self, token: int) -> str:
        """Add one token, and return the text that is now certain."""
        return self._until.push(self._stream.push([token]))

    def last(self) -> str:
        """What was held back, where nothing more comes."""
        return self._until.push(self._stream.push([], last=True), last=True)


@dataclass
class StoppedDecoding:
    """The text of tokens that arrive in parts, which ends where a run ends it: before a stop string."""

    text: StopText

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        return "".join(map(self.text.push, tokens)) + (self.text.last() if last else "")


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of a stop string."""
    for count in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:count]):
            return count
    return 0
