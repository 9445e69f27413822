"""Recipes in files: a name and rules, as a conversion within a budget writes them and `--recipe` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mlx_diffusion.checkpoint.recipes import RECIPES, Recipe, parse_rule, recipe_named, rule_text
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.json_files import read_json

RECIPE_FILE = "recipe.json"  # in a folder that was converted by a recipe of its own
SUFFIX = ".json"


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or in a file whose path ends in .json. Raises OptionError."""
    return read_recipe(Path(name).expanduser()) if name.endswith(SUFFIX) else recipe_named(name)


def given_by_name(recipes: Iterable[str]) -> dict[str, str]:
    """What was given, names or files, by the names of the recipes. Raises OptionError."""
    found: dict[str, str] = {}
    for given in dict.fromkeys(recipes):
        name = find_recipe(given).name
        if name in found:
            raise OptionError(f"{found[name]} and {given} are both named {name!r}; give one of the files another name")
        found[name] = given
    return found


def read_recipe(file: Path) -> Recipe:
    """The recipe in a file; a rule of it that fits nothing is an error where it is applied. Raises OptionError."""
    if not file.is_file():
        raise OptionError(f"{file}: no such recipe; give a file that a conversion within a budget wrote, or a name")
    try:
        content = read_json(file)
    except CheckpointError as error:
        raise OptionError(str(error).replace("download the file again", "give another")) from None
    name, rules = content.get("name"), content.get("rules")
    if not isinstance(name, str) or not name or not name.isprintable() or name in RECIPES:
        raise OptionError(f"{file}: name is {name!r}; it must be a text of its own")
    unknown = sorted(content.keys() - {"name", "rules"})
    if unknown:
        raise OptionError(f"{file}: {unknown[0]!r} is not known; a recipe has a name and rules")
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, str) for rule in rules):
        raise OptionError(f"{file}: rules must be a list of texts like '*.self_attn.*=6,64,affine'")
    try:
        return Recipe(name, (), tuple(map(parse_rule, rules)))
    except OptionError as error:
        raise OptionError(f"{file}: {error}") from None


def recipe_content(recipe: Recipe) -> bytes:
    """The file of a recipe: all of its rules, in order."""
    rules = [rule_text(rule) for rule in (*recipe.rules, *recipe.own)]
    return (json.dumps({"name": recipe.name, "rules": rules}, indent=2) + "\n").encode()


def is_own(recipe: Recipe) -> bool:
    """True for a recipe that this library has no name for."""
    return recipe.name not in RECIPES
