"""Imports run one way, from the command down to the errors; and what is imported is declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = {"mlx_diffusion": ROOT / "mlx_diffusion", "mlx_diffusion.cli": ROOT / "cli"}
FOLDERS["mlx_diffusion.convert"] = ROOT / "convert"

# A module imports only from its own place and from places further down; `training` and tests stand outside.
PLACES = (
    ("cli",),
    ("convert",),
    ("measure",),
    ("fit",),
    ("generation", "loading"),
    ("engine",),
    ("network",),
    ("checkpoint",),
    ("options",),
    ("json_fields", "tokenizer", "events", "display", "device"),
    ("errors",),
)
LEVEL = {place: level for level, places in enumerate(PLACES) for place in places}
PUBLIC = "__init__"  # names for users, imported on first use


def modules() -> Iterator[tuple[str, Path]]:
    """(full name, file) of every module that is installed."""
    for package, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            yield ".".join([package, *file.relative_to(folder).with_suffix("").parts]), file


MODULES = dict(modules())


def imports(name: str, file: Path) -> Iterator[str]:
    """Full names of what a module imports, at its top, inside functions and for type checking alike."""
    package = name.rsplit(".", 1)[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES or f"{inner}.__init__" in MODULES else source


def top(name: str) -> str:
    """The module of the package that a full name belongs to: mlx_diffusion.cli.main -> cli."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else PUBLIC


def ours(name: str) -> set[str]:
    """Full names of our own modules that a module imports."""
    return {imported for imported in imports(name, MODULES[name]) if imported.split(".")[0] == "mlx_diffusion"}


def test_imports_run_down() -> None:
    for name in MODULES:
        importer = top(name)
        for imported in map(top, ours(name)):
            if importer == PUBLIC:
                assert imported not in {"cli", "convert", "measure"}, f"{name} imports {imported}"
            elif imported not in (importer, PUBLIC):
                assert LEVEL[imported] > LEVEL[importer], f"{name} imports {imported}"


def test_every_module_has_a_place() -> None:
    assert {top(name) for name in MODULES} == set(LEVEL) | {PUBLIC}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Packages stand for their __init__; what is imported only for type checking counts too."""
    graph = {name.removesuffix(".__init__"): ours(name) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " imports ".join((*way[way.index(name) :], name))
        if name not in done:
            for imported in sorted(graph.get(name, ())):
                if imported != "mlx_diffusion":
                    visit(imported, (*way, name))
            done.add(name)

    for name in graph:
        if name != "mlx_diffusion":
            visit(name, ())


def test_one_import_style() -> None:
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name} line {node.lineno}: relative import"


def test_third_party_imports_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}

    declared, optional = names(project["dependencies"]), names(project["optional-dependencies"]["plot"])
    used = {imported.split(".")[0] for name, file in MODULES.items() for imported in imports(name, file)}
    assert used - set(sys.stdlib_module_names) - {"mlx_diffusion"} <= declared | optional
    assert declared | optional <= used, "declared and never imported"
