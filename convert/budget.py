"""The recipe that loses least within a budget of bytes, by what quantising each group of matrices costs at the logits.

What is measured of a source is kept in the program's state folder, so that an interrupted conversion goes on with the
same recipe, and another budget needs no second measurement. Knows nothing of how losses are measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mlx_diffusion import __version__
from mlx_diffusion.checkpoint.folder import Checkpoint, find_folder
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.pieces import apply_recipe
from mlx_diffusion.checkpoint.recipes import Recipe, Rule, rule_text
from mlx_diffusion.checkpoint.tensor_names import DECODER, UNQUANTISED_PARTS, module_of, part_of
from mlx_diffusion.convert.gguf_source import gguf_file
from mlx_diffusion.convert.knapsack import Option, least_loss
from mlx_diffusion.display import count_of, size_text
from mlx_diffusion.errors import OptionError
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.measure.sensitivity import Change, sensitivities
from mlx_diffusion.state import StateError, state_folder
from mlx_diffusion.whole_files import write_whole

FORMATS = tuple(QuantSpec(group, bits, "affine") for bits in (2, 3, 4, 5, 6, 8) for group in (64, 32))
MOST_BITS_IN_32 = 4  # of groups of 32, where groups of 64 divide the rows too: more bits gain more than smaller groups
FIXED: Rule = ("*", QuantSpec(64, 8, "affine"))  # of the routers, which are small and choose for all that follows
# A matrix that is a group of its own, or the beginning that a group's matrices share.
GROUP = re.compile(
    rf"(?P<whole>{re.escape(DECODER)}(?:embed_tokens|layers\.\d+\.experts\.\w+))"
    rf"|(?P<beginning>{re.escape(DECODER)}(?:self_conditioning|layers\.\d+\.(?:self_attn|mlp)))\.\w+"
)
LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Group:
    """Matrices that are kept alike: a rule's pattern, their modules, their layer, and bytes by format."""

    pattern: str
    modules: tuple[str, ...]
    layer: int | None
    nbytes: Mapping[QuantSpec, int]

    def change(self, spec: QuantSpec) -> Change:
        return Change(tuple(module.removeprefix(DECODER) for module in self.modules), self.layer, spec)


def recipe_within(
    budget: int,
    source: str | Path,
    revision: str | None,
    tell: Callable[[float, str], None],
    *,
    stream: bool,
    rules: Sequence[str],
) -> Recipe:
    """The recipe that loses least within a budget, for a conversion with these arguments. Raises OptionError."""
    if stream:
        raise OptionError("budget= measures the source's weights, which stream=True drops; leave out one of them")
    if rules:
        raise OptionError(f"rules=['{rules[0]}'] would change what budget= solves for; leave out one of them")
    if gguf_file(source) is not None:
        raise OptionError(f"budget= cannot measure {source}, a GGUF; convert it with recipe='bf16' first")
    return budget_recipe(find_folder(source, revision), budget, tell)


def budget_recipe(source: Path, budget: int, tell: Callable[[float, str], None]) -> Recipe:
    """The recipe for the checkpoint in a folder. Raises OptionError for a budget that nothing fits.

    `tell` is told the share that is done of the measurement, and what is at work.
    """
    checkpoint = Checkpoint.open_source(source)
    tensors = [one.tensor for one in checkpoint.sources]
    groups = groups_of(tensors)
    fixed = sum(piece.nbytes for piece in apply_recipe(_others(tensors, groups), Recipe("rest", (FIXED,))))
    smallest = fixed + sum(min(group.nbytes.values()) for group in groups)
    if budget < smallest:
        raise OptionError(
            f"a budget of {size_text(budget)} is too small: the least that this checkpoint takes is "
            f"{size_text(smallest)} ({count_of(smallest, 'byte')})"
        )
    losses = _losses(checkpoint, groups, tell)
    choices = [[Option(group.nbytes[spec], losses[group.pattern, spec]) for spec in group.nbytes] for group in groups]
    chosen = least_loss(choices, budget - fixed)
    assert chosen is not None
    rules = [(group.pattern, list(group.nbytes)[number]) for group, number in zip(groups, chosen, strict=True)]
    return Recipe(f"budget-{size_text(budget).replace(' ', '')}", (), (FIXED, *rules))


def groups_of(tensors: Sequence[Tensor]) -> list[Group]:
    """The groups of a checkpoint, each with the formats whose groups divide its rows."""
    found: dict[str, list[Tensor]] = {}
    layers: dict[str, int | None] = {}
    for tensor in tensors:
        if part_of(tensor.name) in UNQUANTISED_PARTS:
            continue
        match = GROUP.fullmatch(module_of(tensor.name))
        if match:
            pattern = match["whole"] or f"{match['beginning']}.*"
            found.setdefault(pattern, []).append(tensor)
            layer = LAYER.search(pattern)
            layers[pattern] = int(layer[1]) if layer else None
    groups = []
    for pattern, own in found.items():
        sizes = {
            spec: sum(piece.nbytes for piece in apply_recipe(own, Recipe("one", (("*", spec),))))
            for spec in FORMATS
            if _is_worth_trying(spec, [tensor.shape[-1] for tensor in own])
        }
        if sizes:
            groups.append(Group(pattern, tuple(module_of(tensor.name) for tensor in own), layers[pattern], sizes))
    return groups


def _is_worth_trying(spec: QuantSpec, widths: Sequence[int]) -> bool:
    if any(width % spec.group_size for width in widths):
        return False
    return spec.group_size == 64 or spec.bits <= MOST_BITS_IN_32 or any(width % 64 for width in widths)


def _others(tensors: Sequence[Tensor], groups: Sequence[Group]) -> list[Tensor]:
    taken = {module for group in groups for module in group.modules}
    return [tensor for tensor in tensors if module_of(tensor.name) not in taken]


def _losses(
    checkpoint: Checkpoint, groups: Sequence[Group], tell: Callable[[float, str], None]
) -> dict[tuple[str, QuantSpec], float]:
    """The loss of each group in each format: measured, or read where the same was measured before."""
    wanted = [(group, spec) for group in groups for spec in group.nbytes]
    names = [rule_text((group.pattern, spec)) for group, spec in wanted]
    file = _file_of(checkpoint)
    known = _read(file)
    if not known.keys() >= set(names):
        found = sensitivities(checkpoint, [group.change(spec) for group, spec in wanted], tell)
        known = dict(zip(names, found, strict=True))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(known, indent=1) + "\n").encode(), error=StateError)
    return {(group.pattern, spec): known[name] for (group, spec), name in zip(wanted, names, strict=True)}


def _file_of(checkpoint: Checkpoint) -> Path:
    """The place of what is measured of these weights by these versions."""
    digest = hashlib.sha256(repr((__version__, version("mlx"))).encode())
    for file in checkpoint.files:
        found = file.stat()
        digest.update(repr((str(file.resolve()), found.st_size, found.st_mtime_ns)).encode())
    return state_folder(os.environ) / "sensitivities" / f"{digest.hexdigest()[:32]}.json"


def _read(file: Path) -> dict[str, float]:
    """What was measured; nothing where the file is not whole, and all is measured again."""
    try:
        content = bounded_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: loss for name, loss in content.items() if isinstance(loss, float) and 0 <= loss < float("inf")}
