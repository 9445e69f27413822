"""Fits text into the cells of a terminal: measures its width, breaks it into lines, shortens it to one.

Knows nothing of what the text means.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby

from rich.cells import get_character_cell_size

from mlx_diffusion.visible_text import visible

Run = tuple[str, int]  # text, and the level that it is drawn at
Line = list[Run]

TAB = "    "
STAND_IN = "·"  # for a character that is wider than the window
_GLYPH = re.compile(r"[!-~]+|.", re.DOTALL)  # a run of narrow characters, or any one character


def cell_width(character: str) -> int:
    """0 for a combining character, 2 for a wide one."""
    return get_character_cell_size(character)


def printable(text: str) -> str:
    """The text with tabs as spaces, and with all that steers a terminal written out; newlines stay."""
    if text.isprintable():
        return text
    return visible(text.replace("\r\n", "\n").replace("\t", TAB))


def one_line(text: str, width: int) -> str:
    """The beginning of a text in one line of at most `width` cells."""
    text = " ".join(printable(text).split())
    if sum(map(cell_width, text)) <= width:
        return text
    used, kept = 0, ""
    for character in text:
        used += cell_width(character)
        if used > width - 1:
            break
        kept += character
    return (kept + "…")[:width]


def wrap(runs: Iterable[Run], width: int) -> list[Line]:
    """Lines of at most `width` cells: broken at newlines, between words and wide characters, and inside long words."""
    layout = _Layout(width)
    for text, level in runs:
        for glyph, size in _glyphs(text):
            layout.add(glyph, size, level)
    return layout.finish()


class _Layout:
    """The lines so far, and the word that will be added to the last line or to a new one."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[Line] = [[]]
        self.used = 0  # cells of the last line
        self.word: Line = []
        self.word_width = 0

    def add(self, glyph: str, size: int, level: int) -> None:
        if glyph == "\n":
            self._end_word()
            self.lines.append([])
            self.used = 0
        elif glyph == " ":
            self._end_word()
            if self.used < self.width:
                self.lines[-1].append((glyph, level))
                self.used += 1
        elif self.word_width + size <= self.width and glyph.isascii():
            self.word.append((glyph, level))
            self.word_width += size
        else:
            for character in glyph:
                self._add_character(character, level)

    def _add_character(self, character: str, level: int) -> None:
        size = cell_width(character)
        if size > self.width:
            character, size = STAND_IN, 1
        if size > 1 or self.word_width + size > self.width:
            self._end_word()
        self.word.append((character, level))
        self.word_width += size

    def finish(self) -> list[Line]:
        self._end_word()
        return [
            [("".join(text for text, _ in run), level) for level, run in groupby(line, _level)] for line in self.lines
        ]

    def _end_word(self) -> None:
        if self.used and self.used + self.word_width > self.width:
            self.lines.append([])
            self.used = 0
        self.lines[-1].extend(self.word)
        self.used += self.word_width
        self.word, self.word_width = [], 0


def _level(run: Run) -> int:
    return run[1]


@lru_cache(maxsize=8192)
def _glyphs(text: str) -> tuple[tuple[str, int], ...]:
    """The units in which a text is laid out, with their number of characters."""
    return tuple((glyph, len(glyph)) for glyph in _GLYPH.findall(text))
