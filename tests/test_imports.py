"""Imports run one way, from the command down to the errors; and what is imported is declared."""

import ast
import re
import sys
import tomllib

from house import MODULES, ROOT, imports, ours, read

# A module imports only from its own place and from places further down; `training` and tests stand outside.
PLACES = (
    ("cli",),
    ("convert",),
    ("serving",),
    ("measure",),
    ("generation", "opening", "filling"),
    ("loading",),
    ("fit",),
    ("engine",),
    ("network",),
    ("checkpoint",),
    ("structure",),
    ("channels", "options", "text_stream"),
    ("option_checks", "option_keywords", "stored_options"),
    ("modes",),
    ("tuning",),
    ("tokenizer", "events", "display", "device", "whole_files", "lazy_names", "state"),
    ("plain_tokenizer", "forged_tokens", "messages"),
    ("chat_template", "template_files"),
    ("template_sandbox",),
    ("template_bounds",),
    ("json_files",),
    ("regular_files", "typed_json", "processes", "state"),
    ("errors",),
    ("visible_text", "canvas_prompts"),
)
LEVEL = {place: level for level, places in enumerate(PLACES) for place in places}
MEASURED = re.compile(r"mlx_diffusion\.measure\.(\w+)")
PUBLIC = "__init__"  # names for users, imported on first use


def top(name: str) -> str:
    """The module of the package that a full name belongs to: mlx_diffusion.cli.main -> cli."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else PUBLIC


def test_imports_run_down() -> None:
    for name in MODULES:
        importer = top(name)
        for imported in map(top, ours(name)):
            if importer == PUBLIC:
                assert imported not in {"cli", "convert", "measure"}, f"{name} imports {imported}"
            elif imported not in (importer, PUBLIC):
                assert LEVEL[imported] > LEVEL[importer], f"{name} imports {imported}"


def test_what_is_measured_is_apart() -> None:
    """Inside measure/: tasks know nothing else of ours but how a canvas is asked for, answers and speed not each other,
    and none of them the door."""
    for name in MODULES:
        folder = MEASURED.findall(name)
        for imported in ours(name) if folder else ():
            pair = [*folder, *MEASURED.findall(imported)]
            assert imported != "mlx_diffusion.measure" or folder == ["__init__"], f"{name} imports the door"
            known = pair == ["tasks", "tasks"] or top(imported) == "canvas_prompts"
            assert folder != ["tasks"] or known, f"{name} imports {imported}"
            assert set(pair) != {"answers", "speed"}, f"{name} imports {imported}"


def test_the_command_measures_through_the_door() -> None:
    for name in MODULES:
        if top(name) == "cli":
            behind = [imported for imported in ours(name) if imported.startswith("mlx_diffusion.measure.")]
            assert not behind, f"{name} imports {behind}; take the name from mlx_diffusion.measure"


def test_every_module_has_a_place() -> None:
    assert {top(name) for name in MODULES} == set(LEVEL) | {PUBLIC}


# The same within cli/: a command is a module or a folder of its own, and none imports another.
CLI_PLACES = (
    ("__main__",),
    ("main",),
    ("bench", "chat", "convert", "doctor", "eval", "generate", "infill", "serve"),
    ("arguments", "constraints", "passing_line", "progress", "report"),
    ("messages",),
    ("streams",),
)
CLI_LEVEL = {place: level for level, places in enumerate(CLI_PLACES) for place in places}
CLI = "mlx_diffusion.cli."


def test_commands_import_what_they_share_and_not_each_other() -> None:
    places = {name: name.removeprefix(CLI).split(".")[0] for name in MODULES if name.startswith(CLI)}
    assert set(places.values()) == {*CLI_LEVEL, "__init__"}
    for name, importer in places.items():
        for imported in ours(name):
            place = imported.removeprefix(CLI).split(".")[0]
            if imported.startswith(CLI) and place != importer:
                assert CLI_LEVEL[place] > CLI_LEVEL[importer], f"{name} imports {imported}"


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
    for name in MODULES:
        for node in read(name)[1]:
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name} line {node.lineno}: relative import"


def test_third_party_imports_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        found = {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}
        return {{"markdown_it_py": "markdown_it"}.get(name, name) for name in found}

    extras = project["optional-dependencies"]
    declared, optional = names(project["dependencies"]), names([*extras["plot"], *extras["gguf"], *extras["serve"]])
    used = {imported.split(".")[0] for name in MODULES for imported in imports(name)}
    assert used - set(sys.stdlib_module_names) - {"mlx_diffusion"} <= declared | optional
    assert declared | optional <= used, "declared and never imported"
