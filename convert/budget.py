"""The recipe that loses least within a budget of bytes, by what rounding each matrix costs at the logits.

What is measured of a source is kept in the program's state folder, so that an interrupted conversion goes on with the
same recipe, and another budget needs little more. Knows nothing of how losses are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES, QuantSpec
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.pieces import Piece, apply_recipe
from mlx_diffusion.checkpoint.recipes import RECIPES, Recipe, Rule
from mlx_diffusion.checkpoint.tensor_names import DECODER, UNQUANTISED_PARTS, module_of, part_of
from mlx_diffusion.convert.gguf_checkpoint import GgufCheckpoint
from mlx_diffusion.convert.gguf_source import GgufSource
from mlx_diffusion.convert.inspection import Inspection
from mlx_diffusion.convert.knapsack import Option, least_loss
from mlx_diffusion.convert.ledger import Ledger
from mlx_diffusion.convert.loss_law import loss_factors, overall_loss
from mlx_diffusion.convert.unpacked import UnpackedCheckpoint
from mlx_diffusion.display import count_of, size_text
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.measure.probe import KINDS

FORMATS = (
    *(QuantSpec(group, bits, "affine", fitted=True) for bits in AFFINE_BITS for group in AFFINE_GROUPS),
    *(QuantSpec(*FIXED_MODES[mode], mode) for mode in ("mxfp4", "nvfp4")),
)
MEASURED_BITS = (3, 4)  # large enough errors to stand out, small enough for losses to grow with their squares
RIVALS = 2  # the largest named recipes that fit are measured beside what was solved, as they are and fitted
FIXED: Rule = ("*", QuantSpec(64, 8, "affine", fitted=True))  # of routers, which are small and choose what follows
NARROW = QuantSpec(32, 8, "affine", fitted=True)  # where groups of 64 do not divide their rows


@dataclass(frozen=True)
class FreeMatrix:
    """A matrix, or that of all experts of a layer, whose format is sought: its module, and its bytes by format."""

    module: str
    nbytes: Mapping[QuantSpec, int]

    @property
    def path(self) -> str:
        return self.module.removeprefix(DECODER)

    @property
    def measured(self) -> tuple[QuantSpec, ...]:
        """The formats that its loss is measured in: the largest groups of a few bits."""
        affine = [spec for spec in self.nbytes if spec.mode == "affine"]
        return tuple(
            max((spec for spec in affine if spec.bits == bits), key=lambda spec: spec.group_size)
            for bits in MEASURED_BITS
        )


def recipe_within(
    budget: int, found: Inspection, tell: Callable[[float, str], None], *, stream: bool, rules: Sequence[str]
) -> Recipe:
    """The recipe that loses least within a budget, for a conversion of this source. Raises OptionError.

    A budget that nothing fits is refused before weights are fetched.
    """
    if stream:
        raise OptionError("budget= measures the source's weights, which stream=True drops; leave out one of them")
    if rules:
        raise OptionError(f"rules=['{rules[0]}'] would change what budget= solves for; leave out one of them")
    source = found.source
    _fixed_bytes([one.tensor for one in found.tensors], budget)
    if isinstance(source, GgufSource):
        with source.laid_out(found.small) as folder:  # for the tokenizer, which is inside of the file
            return budget_recipe(GgufCheckpoint.beside(source.paths[0], folder), budget, tell)
    shards = source.shards()
    paths = [source.fetch(shard, after) for shard, after in zip(shards, [*shards[1:], None], strict=True)]
    return budget_recipe(UnpackedCheckpoint.of(Checkpoint.open_source(paths[0].parent)), budget, tell)


def budget_recipe(checkpoint: Checkpoint, budget: int, tell: Callable[[float, str], None]) -> Recipe:
    """The recipe for a checkpoint. Raises OptionError for a budget that nothing fits.

    `tell` is told the share that is done of the measurement, and what is at work.
    """
    tensors = [one.tensor for one in checkpoint.sources]
    matrices = matrices_of(tensors)
    rest, fixed = rules_of(_others(tensors, matrices)), _fixed_bytes(tensors, budget)
    ledger = Ledger.of(checkpoint, tell)
    rules = ledger.chosen(budget)
    if rules is None:
        solved = _solved(matrices, budget - fixed, ledger)
        rivals = [(*rest, *solved), *rivals_within(budget, tensors)]
        losses = ledger.losses_of([formats_of(apply_recipe(tensors, Recipe("rival", one))) for one in rivals])
        rules = min(zip(map(overall_loss, losses), rivals, strict=True), key=itemgetter(0))[1]
        ledger.keep_chosen(budget, rules)
    return Recipe(f"budget-{size_text(budget).replace(' ', '')}", (), rules)


def _fixed_bytes(tensors: Sequence[Tensor], budget: int) -> int:
    """The bytes of what no format is sought for. Raises OptionError for a budget that nothing fits."""
    matrices = matrices_of(tensors)
    others = _others(tensors, matrices)
    fixed = sum(piece.nbytes for piece in apply_recipe(others, Recipe("rest", rules_of(others))))
    smallest = fixed + sum(min(matrix.nbytes.values()) for matrix in matrices)
    if budget < smallest:
        raise OptionError(
            f"a budget of {size_text(budget)} is too small: the least that this checkpoint takes is "
            f"{size_text(smallest)} ({count_of(smallest, 'byte')})"
        )
    return fixed


def _solved(matrices: Sequence[FreeMatrix], nbytes: int, ledger: Ledger) -> list[Rule]:
    """The rules that should lose least: a format for each matrix."""
    errors = ledger.errors({matrix.path: tuple(matrix.nbytes) for matrix in matrices})
    measured = ledger.measured({matrix.path: matrix.measured for matrix in matrices})
    factors = loss_factors([measured[matrix.path] for matrix in matrices], len(KINDS))
    choices = [
        [Option(matrix.nbytes[spec], factor * errors[matrix.path][spec]) for spec in matrix.nbytes]
        for matrix, factor in zip(matrices, factors, strict=True)
    ]
    chosen = least_loss(choices, nbytes)
    assert chosen is not None
    return [(matrix.module, list(matrix.nbytes)[number]) for matrix, number in zip(matrices, chosen, strict=True)]


def rivals_within(budget: int, tensors: Sequence[Tensor]) -> list[tuple[Rule, ...]]:
    """The rules of the largest named recipes that fit, as they are and with fitted scales."""
    sizes = {}
    for recipe in RECIPES.values():
        try:
            nbytes = sum(piece.nbytes for piece in apply_recipe(tensors, recipe))
        except CheckpointError:  # its groups do not divide the rows
            continue
        if nbytes <= budget:
            sizes[recipe.rules] = nbytes
    named = sorted(sizes, key=sizes.__getitem__)[-RIVALS:]
    return [*named, *(tuple((pattern, _fitted(spec)) for pattern, spec in rules) for rules in named)]


def _fitted(spec: QuantSpec | None) -> QuantSpec | None:
    """The same format with fitted scales, where there are such."""
    return replace(spec, fitted=True) if spec is not None and spec.mode == "affine" else spec


def matrices_of(tensors: Sequence[Tensor]) -> list[FreeMatrix]:
    """The matrices that a format is sought for, each with the formats whose groups divide its rows."""
    found = []
    for tensor in tensors:
        part = part_of(tensor.name)
        if part in UNQUANTISED_PARTS or part == "router" or tensor.shape[-1] % min(AFFINE_GROUPS):
            continue
        sizes = {
            spec: sum(piece.nbytes for piece in apply_recipe([tensor], Recipe("one", (("*", spec),))))
            for spec in FORMATS
            if tensor.shape[-1] % spec.group_size == 0
        }
        found.append(FreeMatrix(module_of(tensor.name), sizes))
    return found


def _others(tensors: Sequence[Tensor], matrices: Sequence[FreeMatrix]) -> list[Tensor]:
    taken = {matrix.module for matrix in matrices}
    return [tensor for tensor in tensors if module_of(tensor.name) not in taken]


def rules_of(others: Sequence[Tensor]) -> tuple[Rule, ...]:
    """The rules of what no format is sought for: bf16 where no group divides the rows."""
    narrow = [
        (module_of(tensor.name), None if tensor.shape[-1] % NARROW.group_size else NARROW)
        for tensor in others
        if part_of(tensor.name) not in UNQUANTISED_PARTS and tensor.shape[-1] % 64
    ]
    return (FIXED, *narrow)


def formats_of(pieces: Sequence[Piece]) -> dict[str, QuantSpec]:
    return {piece.module.removeprefix(DECODER): piece.spec for piece in pieces if piece.spec is not None}
