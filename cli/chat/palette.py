"""The look of a canvas's levels in a terminal: attributes and greys that suit it, never a background.

Knows nothing of what is drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_diffusion.cli.chat.cells import Line, cell_width

RESET = "\x1b[0m"
DOT = "·"


@dataclass(frozen=True)
class Palette:
    """An SGR parameter for each level ("" is the terminal's own colour), and the first level shown as dots."""

    levels: tuple[str, ...]
    dots_from: int | None = None

    def paint(self, line: Line) -> str:
        """A line with its escape sequences."""
        painted = ""
        for text, level in line:
            sgr = self.levels[level]
            if self.dots_from is not None and level >= self.dots_from:
                text = dots(text)
            painted += f"\x1b[{sgr}m{text}{RESET}" if sgr else text
        return painted

    @property
    def status(self) -> str:
        """The SGR parameter for lines beside the text."""
        return "2"


def dots(text: str) -> str:
    """Dots in place of a text, in as many cells."""
    return "".join(character if character.isspace() else DOT * cell_width(character) for character in text)


# Dim is the one attribute that follows every theme, so it stands for all shades where there are no greys.
ATTRIBUTES = Palette(("", "2", "2", "2", "2"), dots_from=3)
DARK = Palette(("", "38;5;248", "38;5;244", "38;5;240", "38;5;237"))
LIGHT = Palette(("", "38;5;240", "38;5;244", "38;5;248", "38;5;252"))
EITHER = Palette(("", "2", "38;5;243", "2;38;5;243", "2;38;5;243"), dots_from=4)


def palette_for(colors: str | None, environment: Mapping[str, str]) -> Palette:
    """The palette for a colour system, by rich's name, and for the theme if the environment tells it."""
    if colors not in ("256", "truecolor") or environment.get("NO_COLOR"):
        return ATTRIBUTES
    background = environment.get("COLORFGBG", "").rpartition(";")[2]
    if background.isdecimal():
        return LIGHT if background in ("7", "15") else DARK
    return EITHER
