"""Tells a template's own control tokens from those that a message only spells, which are text.

A template is rendered twice: as it is, and with invisible marks in every text that it is given. A control token that
has a mark inside, or marks round it, came from a message, be it whole, in pieces or changed on its way.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mlx_diffusion.errors import PromptError

Span = tuple[int, int]
PRIVATE = range(0xF0000, 0xFFFFE)  # code points that Unicode gives to nobody


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation, and the spans in it that are spelled like control tokens but are text."""

    text: str
    forged: tuple[Span, ...]


class ControlTokens:
    """The tokens of a vocabulary that structure a conversation."""

    def __init__(self, tokens: Collection[str]) -> None:
        longest_first = sorted(filter(None, tokens), key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        firsts = sorted({token[0] for token in longest_first if not token[0].isalnum()})
        self._first = re.compile("|".join(map(re.escape, firsts)) or "(?!)")

    def render(self, render: Callable[[Any], str], given: Any) -> Rendered:
        """Render `given`, messages and all else from outside, and find what in the text is forged.

        Where a template looks for control tokens in a message (to leave thoughts out, say), marks inside of them hide
        them from it; then they stand round whole tokens, as in Transformers. If the marks change the text even so, the
        text of the marked rendering is taken, in which nothing can pass for a control token.
        """
        text = render(given)
        texts = list(_texts(given))
        if not any(self._first.search(one) or self._pattern.search(one) for one in texts):
            return Rendered(text, ())
        inside, begin, end = _unused(" ".join([text, *texts]))
        for mark in (lambda one: self._mark_inside(one, inside), lambda one: self._mark_round(one, inside, begin, end)):
            marked = render(_mapped(given, mark))
            clean, forged = self._forged(marked, inside, begin, end)
            placed = _placed(clean, forged, text)
            if placed is not None:
                return Rendered(text, placed)
        return Rendered(clean, forged)

    def _mark_inside(self, text: str, inside: str) -> str:
        return self._first.sub(lambda found: found[0] + inside, text)

    def _mark_round(self, text: str, inside: str, begin: str, end: str) -> str:
        parts, last = [], 0
        for found in self._pattern.finditer(text):
            parts += [self._mark_inside(text[last : found.start()], inside), begin, found[0], end]
            last = found.end()
        return "".join([*parts, self._mark_inside(text[last:], inside)])

    def _forged(self, marked: str, inside: str, begin: str, end: str) -> tuple[str, tuple[Span, ...]]:
        """The text without its marks, and the control tokens in it that marks give away."""
        clean: list[str] = []
        length = 0
        marks: dict[str, set[int]] = {inside: set(), begin: set(), end: set()}  # each before the character of its index
        for part in re.split(f"([{inside}{begin}{end}])", marked):
            if part in marks:
                marks[part].add(length)
            else:
                clean.append(part)
                length += len(part)
        text = "".join(clean)
        forged = [
            found.span()
            for found in self._pattern.finditer(text)
            if (found.start() in marks[begin] and found.end() in marks[end])
            or any(
                place in positions
                for positions in marks.values()
                for place in range(found.start() + 1, found.end() + (len(found[0]) == 1))
            )
        ]
        return text, tuple(forged)


def _placed(marked: str, spans: tuple[Span, ...], text: str) -> tuple[Span, ...] | None:
    """The spans' places in `text`, which may differ in white space; None if it differs in more."""
    if marked == text:
        return spans
    there = [index for index, character in enumerate(text) if not character.isspace()]
    here = [index for index, character in enumerate(marked) if not character.isspace()]
    if [text[index] for index in there] != [marked[index] for index in here]:
        return None
    place = dict(zip(here, there, strict=True))
    placed = []
    for start, end in spans:
        if start not in place or end - 1 not in place or text[place[start] : place[end - 1] + 1] != marked[start:end]:
            return None
        placed.append((place[start], place[end - 1] + 1))
    return tuple(placed)


def _unused(text: str) -> list[str]:
    """Three characters that `text` does not have."""
    present = set(text)
    return list(islice((mark for mark in map(chr, PRIVATE) if mark not in present), 3))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts(part)]
    return []


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text in it changed, and every key that is no plain name of a field."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped_key(key, change): _mapped(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(part, change) for part in value)
    return value


def _mapped_key(key: Any, change: Callable[[str], str]) -> Any:
    return change(key) if isinstance(key, str) and not key.isidentifier() else key


def encode_as_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text`, none of them an added token: cut in two for as long as one is."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    else:
        normal = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        parts = [normal]
        if backend.pre_tokenizer is not None:
            parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
        ids = [token.id for part in parts for token in backend.model.tokenize(part)]
    if not tokenizer.added_tokens_decoder.keys() & set(ids):
        return list(ids)
    if len(text) == 1:
        raise PromptError(f"a message holds {text!r}, which this checkpoint has as a control token only; remove it")
    middle = len(text) // 2
    return encode_as_text(tokenizer, text[:middle]) + encode_as_text(tokenizer, text[middle:])
