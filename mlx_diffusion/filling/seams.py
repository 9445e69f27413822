"""The seams between a gap and the text around it, opened so that a token of the whole text may straddle them.

Tokens of the parts are not those of the whole: behind "fig " a model would write "oak", but the token that it knows is
" oak". So the last token before a gap and the first one behind it are taken off the canvas, and what is written in the
open place must begin and end with their characters. What was given is never decoded, so that it stays as it is. Knows
nothing of canvases or of models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlx_diffusion.text_stream import REPLACEMENT
from mlx_diffusion.tokenizer import Tokenizer


@dataclass(frozen=True)
class Seams:
    """The tokens that stay on either side of a gap, and those that were taken off for it."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    off_before: tuple[int, ...] = ()
    off_after: tuple[int, ...] = ()
    begins: str = ""  # characters of the tokens that were taken off: the open place begins with them …
    ends: str = ""  # … and ends with these

    @classmethod
    def opened(cls, tokenizer: Tokenizer, before: str, after: str) -> Seams:
        """Take a token off on each side, where its characters are known. Raises `PromptError` for no valid Unicode."""
        left, right = (tuple(tokenizer.encode_text(text)) for text in (before, after))
        begins, ends = _characters(tokenizer, left[-1:]), _characters(tokenizer, right[:1])
        opens_left = bool(begins) and before.endswith(begins)
        opens_right = bool(ends) and after.startswith(ends)
        return cls(
            left[:-1] if opens_left else left,
            right[1:] if opens_right else right,
            left[-1:] if opens_left else (),
            right[:1] if opens_right else (),
            begins if opens_left else "",
            ends if opens_right else "",
        )

    def closed(self, text: str) -> Seams:
        """The same with the seam closed at which this text of the open place is not as it must be; or both."""
        left, right = not text.startswith(self.begins), not text.endswith(self.ends)
        if not (left or right):  # they overlap
            left = right = True
        seams = self
        if left:
            seams = replace(seams, before=seams.before + seams.off_before, off_before=(), begins="")
        if right:
            seams = replace(seams, after=seams.off_after + seams.after, off_after=(), ends="")
        return seams

    @property
    def off(self) -> int:
        """How many tokens the open place has beside those of the gap, if none straddles a seam."""
        return len(self.off_before) + len(self.off_after)

    def gap_in(self, text: str) -> str | None:
        """What stands in the gap where this stands in the open place; None where it does not fit the seams."""
        if len(text) < len(self.begins) + len(self.ends):
            return None
        if not (text.startswith(self.begins) and text.endswith(self.ends)):
            return None
        return text[len(self.begins) : len(text) - len(self.ends)]


def _characters(tokenizer: Tokenizer, tokens: tuple[int, ...]) -> str:
    """The text of one token; "" where it has none of its own, as a byte of a character has not."""
    if not tokens or tokenizer.is_byte(tokens[0]):
        return ""
    text = tokenizer.decode(tokens)
    return "" if REPLACEMENT in text else text
