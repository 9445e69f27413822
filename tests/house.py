"""The package as a house, read from its source files: modules, their imports, and the rooms and floors that follow.

Imports nothing of the package, so it can look at one that does not run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "mlx_diffusion"
FOLDERS = {
    PACKAGE: ROOT / "mlx_diffusion",
    f"{PACKAGE}.cli": ROOT / "cli",
    f"{PACKAGE}.convert": ROOT / "convert",
}
DOOR, GROUND = "the door", "the ground"  # the top-level modules: those that need a folder, and those that need none
GROUND_SENTENCE = (
    "Options, events, errors and the tokenizer, which callers meet, and the small helpers that every room uses."
)


def modules() -> Iterator[tuple[str, Path]]:
    """(full name, file) of every module that is installed, but the one that starts the command for `python -m`."""
    for package, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            if file == ROOT / PACKAGE / "__main__.py":
                continue
            yield ".".join([package, *file.relative_to(folder).with_suffix("").parts]), file


MODULES = dict(modules())


@cache
def read(name: str) -> tuple[str, tuple[ast.Import | ast.ImportFrom, ...]]:
    """A module's docstring, and its imports, at its top, inside functions and for type checking alike."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = tuple(node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)))
    return ast.get_docstring(tree) or "", found


def imports(name: str) -> Iterator[str]:
    """Full names of what a module imports."""
    package = name.rsplit(".", 1)[0]
    for node in read(name)[1]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES or f"{inner}.__init__" in MODULES else source


@cache
def ours(name: str) -> frozenset[str]:
    """Full names of our own modules that a module imports; a package stands for its __init__."""
    return frozenset(imported for imported in imports(name) if imported.split(".")[0] == PACKAGE)


def sentence(name: str) -> str:
    """The first sentence of a module's docstring."""
    paragraph = " ".join(read(name)[0].split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]


def inner_imports(name: str) -> set[str]:
    """What a module imports of ours by the names of `MODULES`, without the package's own names for users."""
    files = {imported if imported in MODULES else f"{imported}.__init__" for imported in ours(name)}
    return files - {f"{PACKAGE}.__init__", name}


@cache
def level(name: str) -> int:
    """How many imports lie below a module, on the longest way down."""
    return 1 + max((level(imported) for imported in inner_imports(name)), default=-1)


@cache
def room_of(name: str) -> str:
    """The room that a module lies in: a folder of the package, the door or the ground."""
    parts = name.split(".")
    if len(parts) > 2:
        return parts[1]
    needs_a_folder = any(room_of(imported) != GROUND for imported in inner_imports(name))
    return DOOR if needs_a_folder or parts[1] == "__init__" else GROUND


@dataclass(frozen=True)
class Room:
    """Modules that answer one question, what they are for, and the rooms that they import from."""

    name: str
    sentence: str
    folders: dict[str, list[str]]  # folder in the repository -> its modules, each above what it imports
    below: frozenset[str]

    @property
    def title(self) -> str:
        """What is written over the room: its folder, or the modules that have none."""
        first = next(iter(self.folders))
        if self.name not in (DOOR, GROUND):
            return first
        return " ".join(MODULES[module].name for module in self.folders[first])


def rooms() -> dict[str, Room]:
    """All rooms, by name."""
    found: dict[str, Room] = {}
    for name in sorted({room_of(module) for module in MODULES}):
        inside = [module for module in MODULES if room_of(module) == name]
        folders: dict[str, list[str]] = {}
        for module in sorted(inside, key=lambda module: (MODULES[module].parent, -level(module), module)):
            listed = folders.setdefault(f"{MODULES[module].parent.relative_to(ROOT).as_posix()}/", [])
            if not module.endswith(".__init__"):
                listed.append(module)
        below = {room_of(imported) for module in inside for imported in inner_imports(module)} - {name}
        found[name] = Room(name, room_sentence(name), folders, frozenset(below))
    return found


def room_sentence(name: str) -> str:
    """What a room is for: its package's docstring, but for the ground, which is no package."""
    if name == GROUND:
        return GROUND_SENTENCE
    return sentence(f"{PACKAGE}.__init__" if name == DOOR else f"{PACKAGE}.{name}.__init__")


def floors(found: dict[str, Room]) -> list[list[Room]]:
    """Rooms by the longest way down from them, the highest first. Raises ValueError where imports go round."""

    def height(name: str, way: tuple[str, ...] = ()) -> int:
        if name in way:
            raise ValueError(f"imports go round: {' -> '.join((*way, name))}")
        return 1 + max((height(below, (*way, name)) for below in found[name].below), default=-1)

    heights = {name: height(name) for name in found}
    return [[found[name] for name in found if heights[name] == floor] for floor in sorted(set(heights.values()))[::-1]]


def stairs(found: dict[str, Room]) -> set[tuple[str, str]]:
    """The imports between rooms that do not follow from others: (upper, lower)."""

    def reached(name: str) -> set[str]:
        return {name}.union(*(reached(below) for below in found[name].below))

    return {
        (room.name, lower)
        for room in found.values()
        for lower in room.below
        if not any(lower in reached(other) for other in room.below - {lower})
    }
