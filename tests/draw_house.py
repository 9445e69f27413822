"""The drawing of the house: docs/house.svg, and docs/house.md with one line a module; both from the source files.

python tests/draw_house.py            writes both
python tests/draw_house.py --check    says which of them differ from the code, and writes nothing
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap

from house import DOOR, GROUND, MODULES, ROOT, Room, floors, rooms, sentence, stairs

PICTURE, PAGE = ROOT / "docs" / "house.svg", ROOT / "docs" / "house.md"
MAKE = "make house"

WIDTH, WALL, GAP, LANE = 860, 24, 30, 26  # of the picture, and what lies around, between and beside the rooms
ROOF, LINE, PAD = 92, 18, 12
STYLE = """\
.sky { fill: #ffffff } .house { fill: #eef1f5; stroke: #8a94a3 } .room { fill: #ffffff; stroke: #b4bcc8 }
.stair { fill: none; stroke: #6b7686; stroke-width: 1.6 } .tip { fill: #6b7686 }
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #3a424e }
.title { font: 600 14px ui-monospace, "SF Mono", Menlo, Consolas, monospace; fill: #14181f }
.name { font: 600 19px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #14181f }
@media (prefers-color-scheme: dark) {
.sky { fill: #0f1318 } .house { fill: #191f27; stroke: #5d6877 } .room { fill: #232b35; stroke: #465160 }
.stair { stroke: #93a0b1 } .tip { fill: #93a0b1 } text { fill: #c6ced8 } .title, .name { fill: #f2f5f8 }
}"""

INTRODUCTION = f"""\
# The house

Every folder of the package answers one question, and imports run downwards: from what is typed to the files of a
checkpoint. An arrow leads to a room below that a room imports from; those that follow from other arrows are left out.

![The folders as rooms of a house, imports running down](house.svg)

Within each list below, a module stands above the modules that it imports. `cli/` and `convert/` are imported as
`mlx_diffusion.cli` and `mlx_diffusion.convert`. Beside the house stand [`training/`](../training), which made the
bundled checkpoint, `tests/`, with about one file a module, and these pages. [architecture.md](architecture.md) says
what is computed in the rooms.

This page and its picture are made from the modules' own docstrings by `{MAKE}`, so do not edit them.
"""


@dataclass(frozen=True)
class Box:
    """A room in its place in the picture."""

    room: Room
    left: float
    top: float
    width: float
    height: float
    title: list[str]
    text: list[str]

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def right(self) -> float:
        return self.left + self.width

    def svg(self) -> str:
        """The room as a rectangle with its title and its sentence."""
        lines = [f'<rect class="room" x="{self.left:g}" y="{self.top:g}" width="{self.width:g}" '
                 f'height="{self.height:g}" rx="5"/>']  # fmt: skip
        for index, line in enumerate([*self.title, *self.text]):
            kind = ' class="title"' if index < len(self.title) else ""
            baseline = self.top + PAD + LINE * index + 13
            lines.append(f'<text{kind} x="{self.left + PAD + 2:g}" y="{baseline:g}">{escape(line)}</text>')
        return "\n".join(lines)


def boxes(storeys: list[list[Room]], lanes: int) -> dict[str, Box]:
    """Every room in its place: storeys below each other, rooms of one storey side by side."""
    placed: dict[str, Box] = {}
    top = float(ROOF + GAP)
    for storey in storeys:
        width = (WIDTH - 4 * WALL - lanes * LANE - GAP * (len(storey) - 1)) / len(storey)
        titles = [wrap(room.title, int(width / 8.8)) for room in storey]
        texts = [wrap(room.sentence.replace("`", ""), int(width / 6.7)) for room in storey]
        height = 2.0 * PAD + LINE * max(len(title + text) for title, text in zip(titles, texts, strict=True))
        left = 2.0 * WALL
        for room, title, text in zip(storey, titles, texts, strict=True):
            placed[room.name] = Box(room, left, top, width, height, title, text)
            left += width + GAP
        top += height + GAP
    return placed


def stair(upper: Box, lower: Box, lane: float | None) -> str:
    """An arrow from a room down to another: straight where they overlap, else around the rooms between, in its lane."""
    start, end = upper.bottom, lower.top - 7
    x = (max(upper.left, lower.left) + min(upper.right, lower.right)) / 2
    if lane is None:
        points = [(x, start), (x, end)]
    else:
        out, back = start + GAP / 2, lower.top - GAP / 2 - 3
        points = [(upper.right - 30, start), (upper.right - 30, out), (lane, out)]
        points += [(lane, back), (lower.right - 30, back), (lower.right - 30, end)]
    x, _ = points[-1]
    path = " L".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<path class="stair" d="M{path}"/>'
        f'<path class="tip" d="M{x - 5:g},{end - 2:g} L{x + 5:g},{end - 2:g} L{x:g},{end + 7:g} Z"/>'
    )


def picture() -> str:
    """The house as an SVG that can be read on light and on dark pages."""
    found = rooms()
    storeys = floors(found)
    storey_of = {room.name: index for index, storey in enumerate(storeys) for room in storey}
    pairs = sorted(stairs(found), key=lambda pair: (storey_of[pair[0]], storey_of[pair[1]], pair))
    around = [pair for pair in pairs if storey_of[pair[1]] - storey_of[pair[0]] > 1]
    placed = boxes(storeys, len(around))
    bottom = max(box.bottom for box in placed.values()) + WALL
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + WALL:g}" role="img" '
        'aria-label="The folders of mlx-diffusion as rooms of a house">',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="sky" width="{WIDTH}" height="{bottom + WALL:g}" rx="8"/>',
        f'<path class="house" d="M{WALL},{ROOF} L{WIDTH / 2:g},16 L{WIDTH - WALL},{ROOF} V{bottom:g} H{WALL} Z"/>',
        f'<text class="name" x="{WIDTH / 2:g}" y="{ROOF - 14}" text-anchor="middle">mlx-diffusion</text>',
        *(box.svg() for box in placed.values()),
    ]
    for upper, lower in pairs:
        lane = None
        if (upper, lower) in around:
            lane = WIDTH - 2 * WALL - LANE * around.index((upper, lower)) - LANE / 2 + 8
        drawn.append(stair(placed[upper], placed[lower], lane))
    return "\n".join([*drawn, "</svg>"]) + "\n"


def heading(room: Room, folder: str) -> list[str]:
    """A folder's heading and its sentence; folders within a room come a level deeper."""
    if room.name in (DOOR, GROUND):
        return [f"## `mlx_diffusion/`, {room.name}", "", room.sentence]
    if folder == next(iter(room.folders)):
        return [f"## `{folder}`", "", room.sentence]
    package = folder.rstrip("/").replace("/", ".").removeprefix("mlx_diffusion.")
    return [f"### `{folder}`", "", sentence(f"mlx_diffusion.{package}.__init__")]


def page() -> str:
    """The page: the picture, and every module with its sentence."""
    lines = [INTRODUCTION]
    for storey in floors(rooms()):
        for room in storey:
            for folder, listed in room.folders.items():
                lines += [*heading(room, folder), ""]
                if listed:
                    lines += ["| module | |", "| --- | --- |"]
                    lines += [row(module) for module in listed]
                    lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def row(module: str) -> str:
    """A module's line in its folder's table, its file a link."""
    file = MODULES[module]
    text = sentence(module).replace("|", "\\|")
    return f"| [`{file.name}`](../{file.relative_to(ROOT).as_posix()}) | {text} |"


def made() -> dict[Path, str]:
    """The files, and what the code says should be in them."""
    return {PICTURE: picture(), PAGE: page()}


def stale() -> list[str]:
    """The files that differ from the code."""
    return [
        file.relative_to(ROOT).as_posix()
        for file, content in made().items()
        if not file.exists() or file.read_text("utf-8") != content
    ]


def main() -> int:
    if "--check" not in sys.argv[1:]:
        for file, content in made().items():
            file.write_text(content, encoding="utf-8")
        return 0
    differing = stale()
    for name in differing:
        print(f"{name} differs from the code; run: {MAKE}", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
