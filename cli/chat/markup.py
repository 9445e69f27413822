"""Prints final text in the terminal as Markdown, with highlighted code, in lines that can be selected and copied.

Uses the terminal's own sixteen colours and no background, so that it suits light and dark themes. Knows nothing of how
the text was made.
"""

import re
from typing import ClassVar

from pygments.token import Comment, Keyword, Name, Number, String
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.text import Text
from rich.theme import Theme

from mlx_diffusion.cli.chat.cells import printable
from mlx_diffusion.cli.chat.palette import RESET

_PADDING = re.compile(r"(?: |\x1b\[[\d;]*m)+$")
NARROWEST = 20  # columns; in a narrower window Markdown is shown as it is written
CODE = ANSISyntaxTheme(
    {
        Comment: Style(dim=True),
        Keyword: Style(color="magenta"),
        Name.Function: Style(color="blue"),
        Name.Class: Style(color="blue"),
        Number: Style(color="cyan"),
        String: Style(color="green"),
    }
)
THEME = Theme(
    {
        "markdown.code": "bold",
        "markdown.code_block": "none",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.item.number": "bold",
        "markdown.block_quote": "dim",
        "markdown.link": "underline",
        "markdown.link_url": "dim",
    }
)


class _Heading(Heading):
    """A heading on the left, without a frame."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Code(CodeBlock):
    """A block of code whose lines are neither padded nor folded."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        syntax = Syntax("", self.lexer_name, theme=CODE, background_color="default")
        code = syntax.highlight(str(self.text).rstrip())
        code.rstrip()
        code.no_wrap, code.overflow = True, "ignore"
        yield code


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
    }


def certain_length(text: str) -> int:
    """The length of the part that later text cannot change: all Markdown blocks but the last."""
    starts = [token.map[0] for token in _Markdown(text).parsed if token.level == 0 and token.map and token.nesting >= 0]
    if not starts:
        return 0
    return sum(map(len, text.splitlines(keepends=True)[: starts[-1]]))


def show(console: Console, text: str) -> None:
    """Print a text of whole Markdown blocks."""
    text = printable(text).strip("\n")
    if not text.strip():
        return
    if console.width < NARROWEST:
        console.print(Text(text), soft_wrap=True)
        return
    with console.capture() as capture, console.use_theme(THEME):
        console.print(_Markdown(text, hyperlinks=False), crop=False)
    lines = [_PADDING.sub(_end_of_line, line) for line in capture.get().split("\n")]
    console.file.write("\n".join(lines).strip("\n") + "\n")
    console.file.flush()


def _end_of_line(padding: re.Match[str]) -> str:
    return RESET if "\x1b" in padding[0] else ""
