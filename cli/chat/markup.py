"""Prints final text in the terminal with its Markdown styled in place: every character stays, and none is added.

So text can be selected and copied as the model wrote it, and the terminal folds long lines itself. Uses attributes and
its own sixteen colours, and no background, so that it suits light and dark themes.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, String
from pygments.util import ClassNotFound
from rich.console import Console

from mlx_diffusion.cli.chat.palette import RESET
from mlx_diffusion.visible_text import visible

Style = tuple[int, int, str]  # the characters from, to, and the SGR parameter for them

BOLD, DIM, ITALIC, UNDERLINE = "1", "2", "3", "4"
CODE = {Comment: DIM, Keyword: "35", Name.Function: "34", Name.Class: "34", Number: "36", String: "32"}
_SPANS = re.compile(  # of one line, so that what is not closed costs little
    r"(?P<code>(?<!`)(`+)(?!`)[^\n]*?[^`\n]\2(?!`))|(?P<strong>(\*\*|__)(?=\S)[^*_\n]*[^*_\s]\4)"
    r"|(?P<emphasis>(?<![\w*_])([*_])(?=[^\s*_])[^*_\n]*[^*_\s]\6(?![\w*_]))|\]\((?P<address>[^()\s]+)\)"
)
_SPAN_STYLES = {"code": BOLD, "strong": BOLD, "emphasis": ITALIC, "address": UNDERLINE}
_ITEM = re.compile(r"[\s>]*(?:(?:[-*+]|\d{1,9}[.)])\s+)+")
_PARSER = MarkdownIt("commonmark").enable("table")


def certain_length(text: str) -> int:
    """The length of the part whose styles later text cannot change: all Markdown blocks but the last."""
    starts = [token.map[0] for token in _blocks(text) if token.level == 0 and token.map and token.nesting >= 0]
    return _line_starts(text)[starts[-1]] if starts else 0


def show(console: Console, text: str) -> None:
    """Print a text of whole Markdown blocks, which ends with a newline or is given one."""
    if text:
        console.file.write(styled(text, console) + ("" if text.endswith("\n") else "\n"))
        console.file.flush()


def styled(text: str, console: Console) -> str:
    """The text with escape sequences in between, as many as the console shows: without them, it is the text."""
    text = visible(text)
    if console.color_system is None:
        return text
    parameters: list[tuple[str, ...]] = [()] * len(text)
    for start, end, parameter in _styles(text):
        if len(parameter) == 1 or not console.no_color:
            parameters[start:end] = [(*others, parameter) for others in parameters[start:end]]
    painted, position = "", 0
    for shown, run in groupby(parameters):
        end = position + len(list(run))
        painted += f"\x1b[{';'.join(shown)}m{text[position:end]}{RESET}" if shown else text[position:end]
        position = end
    return painted


def _blocks(text: str) -> list[Token]:
    return _PARSER.parse(text.replace("\r", " "))  # which would begin a line for the parser alone


def _line_starts(text: str) -> list[int]:
    """Where each line begins, and where the text ends."""
    starts = [0, *(newline.end() for newline in re.finditer("\n", text))]
    return [*starts, len(text)]


def _styles(text: str) -> Iterator[Style]:
    """The styles of a text; where several meet, all of them count."""
    starts = _line_starts(text)
    for token in _blocks(text):
        if token.map is None:
            continue
        start, end = starts[token.map[0]], starts[min(token.map[1], len(starts) - 1)]
        if token.type == "heading_open":
            yield start, end, BOLD
        elif token.type == "blockquote_open":
            yield start, end, DIM
        elif token.type == "list_item_open":
            marker = _ITEM.match(text, start, end)
            yield start, marker.end() if marker else start, BOLD
        elif token.type == "fence":
            yield from _code_styles(text, starts, token)
        elif token.type == "inline":
            for found in _SPANS.finditer(text, start, end):
                assert found.lastgroup is not None
                yield *found.span(found.lastgroup), _SPAN_STYLES[found.lastgroup]


def _code_styles(text: str, starts: list[int], token: Token) -> Iterator[Style]:
    """The fences, and what the lexer of the language says of the lines between them, which may be indented."""
    assert token.map is not None
    first, last = token.map
    lines = token.content.removesuffix("\n").split("\n") if token.content else []
    yield starts[first], starts[first + 1], DIM
    if last > first + 1 + len(lines):
        yield starts[last - 1], starts[last], DIM
    try:
        lexer = get_lexer_by_name(token.info.split()[0] if token.info.strip() else "text")
    except ClassNotFound:
        return
    places: list[int] = []  # in the text, of every character of the code
    for number, line in enumerate(lines):
        end = text.find("\n", starts[first + 1 + number])
        end = len(text) if end < 0 else end
        places += range(end - len(line), end + 1)
    for index, kind, value in lexer.get_tokens_unprocessed(token.content):
        parameter = next((CODE[known] for known in (kind, *reversed(kind.split())) if known in CODE), None)
        if parameter is not None:
            for place in places[index : index + len(value)]:
                yield place, place + 1, parameter
