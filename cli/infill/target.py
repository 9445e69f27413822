"""A text with gaps, from a file or from standard input: where its gaps are, and what it becomes once they are filled.

Everything outside the gaps stays as it is, to the byte: a byte order mark, line endings, a last line without one. Knows
nothing of models.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.regular_files import read_regular
from mlx_diffusion.whole_files import whole_file

MOST_BYTES = 64_000_000
BYTE_ORDER_MARK = "\ufeff"
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
_LINES = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_PLACES = re.compile(rf"{_PLACE.pattern}-{_PLACE.pattern}")
_ENDINGS = re.compile("\r\n|\n|\r")


@dataclass(frozen=True)
class Target:
    """A whole text, and the spans of its characters that are gaps, in order."""

    name: str
    text: str
    gaps: tuple[tuple[int, int], ...]

    @property
    def parts(self) -> list[str]:
        """What is known around the gaps, with newlines alone as line endings and without a byte order mark."""
        ends = [0, *(place for gap in self.gaps for place in gap), len(self.text)]
        parts = [self.text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]
        parts[0] = parts[0].removeprefix(BYTE_ORDER_MARK)
        return [_ENDINGS.sub("\n", part) for part in parts]

    def filled(self, written: Sequence[str]) -> str:
        """The text with what was written in its gaps, in the line endings that it has."""
        endings = _ENDINGS.findall(self.text)
        ending = max(dict.fromkeys(endings), key=endings.count) if endings else "\n"  # the usual one
        whole, last = [], 0
        for (start, end), text in zip(self.gaps, written, strict=True):
            whole += [self.text[last:start], text.replace("\n", ending)]
            last = end
        return "".join([*whole, self.text[last:]])

    def place_of(self, gap: int) -> tuple[int, int]:
        """Line and column at which a gap begins, both from 1."""
        before = self.text[: self.gaps[gap][0]].removeprefix(BYTE_ORDER_MARK)
        endings = [match.end() for match in _ENDINGS.finditer(before)]
        return len(endings) + 1, len(before) - (endings[-1] if endings else 0) + 1

    def diff(self, whole: str) -> str:
        """What changes, as a unified diff."""
        lines = difflib.unified_diff(_lines(self.text), _lines(whole), self.name, self.name)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def read_text(source: str) -> str:
    """The text of a file, or of standard input for "-". Raises `PromptError`."""
    name = "standard input" if source == "-" else source
    try:
        content = _standard_input() if source == "-" else read_regular(Path(source), MOST_BYTES)
        text = content.decode("utf-8")
    except OSError as error:
        raise PromptError(f"{name} cannot be read ({error.strerror}); name a text file") from None
    except UnicodeDecodeError as error:
        raise PromptError(f"{name} is not text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise PromptError(f"{name} is not text (it has a zero at character {text.index(chr(0))}); name a text file")
    return text


def _standard_input() -> bytes:
    content = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise PromptError(f"standard input has more than {MOST_BYTES:,} bytes; pass less of it")
    return content


def write_text(file: Path, text: str) -> None:
    """Replace a file, whole or not at all; its permissions stay. Raises `PromptError`."""
    try:
        mode = file.stat().st_mode & 0o7777
        with whole_file(file) as part:
            part.write_bytes(text.encode())
            part.chmod(mode)
    except OSError as error:
        raise PromptError(f"{file} cannot be written ({error.strerror or error}); it is as it was") from None


def at_markers(name: str, text: str, marker: str) -> Target:
    """Every place where a marker stands is a gap. Raises `OptionError`."""
    if not marker:
        raise OptionError("the marker is empty; write the text that marks a gap")
    gaps = tuple((match.start(), match.end()) for match in re.finditer(re.escape(marker), text))
    if not gaps:
        raise OptionError(f"{name} has no {marker!r}; write it where text is to be filled in, or use --at or --range")
    for (_, end), (start, _) in pairwise(gaps):
        if end == start:
            target = Target(name, text, gaps)
            line, column = target.place_of(gaps.index((start, start + len(marker))))
            raise OptionError(f"{name}:{line}:{column} has {marker!r} twice in a row; one of them marks the gap")
    return Target(name, text, gaps)


def at_place(name: str, text: str, place: str) -> Target:
    """A gap at LINE:COLUMN. Raises `OptionError`."""
    found = _PLACE.fullmatch(place)
    if found is None:
        raise OptionError(f"--at is {place!r}; write LINE:COLUMN, both from 1, as in 12:5")
    start = _offset(name, text, int(found[1]), int(found[2]))
    return Target(name, text, ((start, start),))


def in_range(name: str, text: str, wanted: str) -> Target:
    """A gap in place of lines A-B, or of L:C-L:C up to and without the second place. Raises `OptionError`."""
    lines, found = _LINES.fullmatch(wanted), _PLACES.fullmatch(wanted)
    if found is not None:
        start, end = (_offset(name, text, int(found[n]), int(found[n + 1])) for n in (1, 3))
    elif lines is not None:
        start, _ = _line(name, text, int(lines[1]))
        _, end = _line(name, text, int(lines[2]))
    else:
        raise OptionError(f"--range is {wanted!r}; write lines as A-B, as in 3-7, or places as 3:5-7:1")
    if end < start or (lines is not None and int(lines[2]) < int(lines[1])):
        raise OptionError(f"--range is {wanted!r}; its end lies before its beginning")
    return Target(name, text, ((start, end),))


def _offset(name: str, text: str, line: int, column: int) -> int:
    start, end = _line(name, text, line)
    if not 1 <= column <= end - start + 1:
        raise OptionError(f"{name} has no place {line}:{column}; line {line} has columns 1 to {end - start + 1}")
    return start + column - 1


def _line(name: str, text: str, number: int) -> tuple[int, int]:
    """Where a line begins and ends, its ending left out."""
    first = len(BYTE_ORDER_MARK) if text.startswith(BYTE_ORDER_MARK) else 0
    matches = list(_ENDINGS.finditer(text))
    if not 1 <= number <= len(matches) + 1:
        raise OptionError(f"{name} has no line {number}; it has lines 1 to {len(matches) + 1}")
    start = matches[number - 2].end() if number > 1 else first
    end = matches[number - 1].start() if number <= len(matches) else len(text)
    return start, end


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)
