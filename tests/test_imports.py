"""Imports run one way, from the command down to the errors; and what is imported is declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"mlx_diffusion": ROOT / "mlx_diffusion", "mlx_diffusion.cli": ROOT / "cli"}
FOLDERS["mlx_diffusion.convert"] = ROOT / "convert"

# A module imports only from layers further down; modules of one layer do not import each other.
LAYERS = (
    ("cli",),
    ("evaluation", "benchmark"),
    ("generation",),
    ("denoise", "loading", "prefixes"),
    ("checkpoint", "weights"),
    ("tokenizer", "model", "stopping", "events", "options"),
    ("attention", "head"),
    ("layers", "cache", "parts", "noise", "sampler"),
    ("masks",),
    ("config",),
    ("quantization",),
    ("fields", "hub_errors", "tensors", "limits", "device"),
    ("errors",),
)
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}
APART = {"convert", "tasks"}  # convert stands on all of it, tasks on nothing; evaluation alone asks for tasks

# The same within evaluation, convert and benchmark.
EVALUATION_LAYERS = (
    ("document",),
    ("session", "tables", "plots"),
    ("runs", "figures"),
    ("journal", "comparison", "workers"),
    ("record", "plan", "engine"),
    ("theory", "suites", "own_suite", "modes"),
    ("worded", "item", "checkers", "statistics", "row_noise", "files", "identity"),
)
CONVERT_LAYERS = (
    ("cost",),
    ("conversion", "room", "verify"),
    ("diagnosis",),
    ("target", "footprint"),
    ("shards", "card", "record", "hub", "tensor_errors", "logit_errors"),
    ("quantise", "source", "vision", "memory", "synthetic"),
    ("layout",),
    ("recipes", "hub_cache"),
    ("files", "progress", "words", "machine", "macs", "published", "layerwise", "format_bounds"),
)
BENCHMARK_LAYERS = (
    ("suite", "plots"),
    ("peer", "tables"),
    ("results",),
    ("ceilings", "primitives", "runs"),
    ("cost", "cases"),
)
PUBLIC = "__init__"  # re-exports; of our own modules only the command and convert may import it


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


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_down(name: str) -> None:
    importer = top(name)
    assert importer in LEVEL or importer in APART | {PUBLIC}, f"{name} has no place in the layers"
    ours = [imported for imported in imports(name, MODULES[name]) if imported.split(".")[0] == "mlx_diffusion"]
    for imported in map(top, ours):
        if imported == importer:
            continue
        if importer == "cli":
            continue
        if importer == "convert":
            assert imported != "cli", f"{name} imports {imported}"
        elif importer == PUBLIC:
            assert imported not in {"cli", "convert", "tasks"}, f"{name} imports {imported}"
        else:
            assert importer != "tasks", f"{name} imports {imported}"
            if (importer, imported) == ("evaluation", "tasks"):
                continue
            assert imported in LEVEL and LEVEL[imported] > LEVEL[importer], f"{name} imports {imported}"


LAYERED = {
    "mlx_diffusion.convert": CONVERT_LAYERS,
    "mlx_diffusion.evaluation": EVALUATION_LAYERS,
    "mlx_diffusion.benchmark": BENCHMARK_LAYERS,
}
LEVELS = {
    package: {module: level for level, layer in enumerate(layers) for module in layer}
    for package, layers in LAYERED.items()
}


def inner_modules(names: Iterable[str], package: str) -> list[str]:
    """Of full names, the modules of a package by their own names; its public names count as the module at the top."""
    inner = [name.removeprefix(package).removeprefix(".") for name in names if name.startswith(package)]
    levels = LEVELS[package]
    top_module = next(iter(levels))
    return [name if name in levels else top_module for name in inner if name != PUBLIC]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        (package, name)
        for package in LAYERED
        for name in MODULES
        if name.startswith(f"{package}.") and not name.endswith(PUBLIC)
    ],
)
def test_imports_run_down_within_a_package(package: str, name: str) -> None:
    levels = LEVELS[package]
    importer = name.removeprefix(f"{package}.")
    for imported in inner_modules(imports(name, MODULES[name]), package):
        assert levels[imported] > levels[importer], f"{name} imports {imported}"


def test_the_table_names_modules_that_are_there() -> None:
    for package, levels in LEVELS.items():
        there = {name.removeprefix(f"{package}.") for name in MODULES if name.startswith(f"{package}.")}
        assert set(levels) | {PUBLIC} == there
    assert {top(name) for name in MODULES} == set(LEVEL) | APART | {PUBLIC}


def test_third_party_imports_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}

    declared, optional = names(project["dependencies"]), names(project["optional-dependencies"]["plot"])
    used = {imported.split(".")[0] for name, file in MODULES.items() for imported in imports(name, file)}
    assert used - set(sys.stdlib_module_names) - {"mlx_diffusion"} <= declared | optional
    assert declared | optional <= used, "declared and never imported"
