"""Recipes for quantising a model: each says how many bits each part of the model keeps, in one small table.

A rule is a glob over module paths ("*.experts.*") and a QuantSpec, or None for bf16; the last rule that matches counts.
Experts hold 95 % of the text model and tolerate few bits. What every token passes through (embeddings, attention,
router, dense MLP, self-conditioning) keeps more. Norms, scalars and the vision tower are bf16 in every recipe.
Sizes in comments are those of the real 26B checkpoint with its vision tower. Knows nothing of tensors or files.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from mlx_diffusion.checkpoint.formats import FIXED_MODES, NVFP4, QuantSpec
from mlx_diffusion.errors import CheckpointError, OptionError

Rule = tuple[str, QuantSpec | None]

DEFAULT_RECIPE = "4bit"
LADDER = (DEFAULT_RECIPE, "4bit-small", "3bit", "2bit")  # to be tried in this order until one fits
DEFAULT_GROUP = 64
UNQUANTIZED = ("16", "bf16")
FITTED = "fitted"


@dataclass(frozen=True)
class Recipe:
    """A recipe's rules, followed by the user's own; a rule of the user's that matches nothing is an error."""

    name: str
    rules: tuple[Rule, ...]
    own: tuple[Rule, ...] = ()
    keeps: QuantSpec | None = None  # the format of what the source has in NVFP4, whatever `rules` say of it

    def spec(self, module: str, kept_as: str = "") -> QuantSpec | None:
        """The format of this module's matrix, which its source has in the encoding `kept_as`; None is bf16."""
        rules = self.rules
        if self.keeps is not None and kept_as == NVFP4:
            rules = (("*", self.keeps),)
        fitting = [spec for pattern, spec in (*rules, *self.own) if fnmatchcase(module, pattern)]
        return fitting[-1] if fitting else None

    def with_rules(self, rules: Iterable[str]) -> Recipe:
        """The same recipe followed by rules of the form PATTERN=bits[,group][,mode][,fitted]. Raises OptionError."""
        return replace(self, own=(*self.own, *map(parse_rule, rules)))


def _affine(bits: int, group_size: int = DEFAULT_GROUP) -> QuantSpec:
    return QuantSpec(group_size, bits, "affine")


def _fixed(mode: str) -> QuantSpec:
    return QuantSpec(*FIXED_MODES[mode], mode)


_TABLE: Mapping[str, tuple[Rule, ...]] = {
    "bf16": (("*", None),),  # 51.65 GB
    "8bit": (("*", _affine(8)),),  # 27.98 GB
    "6bit": (("*", _affine(8)), ("*.experts.*", _affine(6))),  # 22.27 GB
    "5bit": (("*", _affine(8)), ("*.experts.*", _affine(5))),  # 19.41 GB
    "4bit": (("*", _affine(8)), ("*.experts.*", _affine(4, 32))),  # 17.98 GB
    # For 24 GB: rows of down_proj have 704 entries, which groups of 128 do not divide.
    "4bit-small": (("*", _affine(6)), ("*.gate_up_proj", _affine(4, 128)), ("*.experts.down_proj", _affine(4))),
    "3bit": (("*", _affine(8)), ("*.experts.*", _affine(3))),
    "2bit": (("*", _affine(6)), ("*.experts.*", _affine(2))),  # for 16 GB
    "mxfp4": (("*", _affine(8)), ("*.experts.*", _fixed("mxfp4"))),
    "mxfp8": (("*", _affine(8)), ("*.experts.*", _fixed("mxfp8"))),
    "nvfp4": (("*", _affine(8)), ("*.experts.*", _fixed("nvfp4"))),
}
_KEEPS = {"nvfp4": _fixed("nvfp4")}
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {name: Recipe(name, rules, keeps=_KEEPS.get(name)) for name, rules in _TABLE.items()}
)


def recipe_named(name: str) -> Recipe:
    """The recipe of that name. Raises OptionError, which names the nearest."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? There" if near else "there"
        raise OptionError(f"unknown recipe {name!r}; {hint} are {', '.join(RECIPES)}")
    return RECIPES[name]


def rule_text(rule: Rule) -> str:
    """A rule as `parse_rule` reads it."""
    pattern, spec = rule
    if spec is None:
        return f"{pattern}=bf16"
    return f"{pattern}={spec.bits},{spec.group_size},{spec.mode}{f',{FITTED}' if spec.fitted else ''}"


def parse_rule(text: str) -> Rule:
    """Read PATTERN=bits[,group][,mode][,fitted]: "*.self_attn.*=6", "*.experts.*=4,32,fitted", "*=mxfp4", "*=bf16"."""
    pattern, equals, how = text.rpartition("=")
    *before, final = words = [word.strip() for word in how.split(",")]
    words = before if (fitted := final == FITTED) else words
    usage = f"{text!r} is no PATTERN=bits[,group][,mode][,fitted], as in '*.self_attn.*=6' or '*.experts.*=4,32,affine'"
    if not pattern.strip() or not equals or not all(words) or len(words) > 3:
        raise OptionError(usage)
    if not fitted and len(words) == 1 and words[0] in UNQUANTIZED:
        return pattern.strip(), None
    numbers = [int(word) for word in words if word.isdecimal()]
    modes = [word for word in words if not word.isdecimal()]
    if len(modes) > 1 or len(numbers) > 2 or (modes and words[-1] != modes[0]):
        raise OptionError(usage)
    mode = modes[0] if modes else "affine"
    fixed = FIXED_MODES.get(mode)
    if not numbers and fixed is None:
        raise OptionError(usage)
    bits = numbers[0] if numbers else fixed[1]  # type: ignore[index]
    group_size = numbers[1] if len(numbers) == 2 else fixed[0] if fixed else DEFAULT_GROUP
    try:
        return pattern.strip(), QuantSpec(group_size, bits, mode, fitted)
    except CheckpointError as error:
        raise OptionError(f"the rule {text!r}: {str(error).removeprefix('quantization: ')}") from None
