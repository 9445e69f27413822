"""Applies a recipe to tensors: gives the tensors that will be written, by name, type, shape and size.

Knows nothing of files or arrays; all is exact arithmetic on shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mlx_diffusion.checkpoint.formats import AFFINE_GROUPS, FIXED_MODES, NVFP4, QuantSpec
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.checkpoint.tensor_names import (
    DECODER,
    EMBEDDINGS,
    PARTS,
    ROW_SCALE,
    UNQUANTISED_PARTS,
    module_of,
    part_of,
)
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError, OptionError


@dataclass(frozen=True)
class Piece:
    """One tensor of the source and the tensors it becomes: itself in bf16, or weight, scales and (affine) biases.

    Of a source in NVFP4, weight, scales and weight_scale_2 may stay as they are: one float32 for each row, which MLX's
    own quantiser does without.
    """

    source: Tensor
    part: str  # of the model, one of PARTS
    module: str
    spec: QuantSpec | None
    written: tuple[Tensor, ...]

    @property
    def kept(self) -> bool:
        """True where the source has the very bits that are written, and a scale for each row beside them."""
        return _stays(self.source, self.spec)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.written)


def apply_recipe(tensors: Iterable[Tensor], recipe: Recipe) -> list[Piece]:
    """Apply the recipe to each tensor, in the given order.

    Raises CheckpointError where a group size does not divide the rows, OptionError for a user's rule that matches
    nothing.
    """
    made, unused = [], {pattern for pattern, _ in recipe.own}
    for tensor in tensors:
        part, module = part_of(tensor.name), module_of(tensor.name)
        spec = None
        if part not in UNQUANTISED_PARTS:
            spec = recipe.spec(module, tensor.dtype)
            unused -= {pattern for pattern in unused if fnmatchcase(module, pattern)}
        made.append(Piece(tensor, part, module, spec, _converted(tensor, part, module, spec)))
    if unused:
        raise OptionError(
            f"the rule {sorted(unused)[0]!r} fits no matrix; paths look like {DECODER}layers.0.self_attn.q_proj, "
            "and * stands for any part"
        )
    return made


def _converted(tensor: Tensor, part: str, module: str, spec: QuantSpec | None) -> tuple[Tensor, ...]:
    if spec is None:
        # mlx-vlm, and all that reads its folders, expects experts to be modules with a weight.
        name = f"{module}.weight" if part == "experts" else tensor.name
        return (Tensor(name, "BF16", tensor.shape),)
    *rows, width = tensor.shape
    if width % spec.group_size:
        glob = f"*.{'.'.join(module.split('.')[-2:])}"
        fitting = [size for size in AFFINE_GROUPS if width % size == 0]
        how = f"{spec.bits if spec.mode == 'affine' else 8},{fitting[-1]}" if fitting else "bf16"
        raise CheckpointError(
            f"{tensor.name} has rows of {count_of(width, 'entry')}, which groups of {spec.group_size} do not divide; "
            "give "
            f"rules=['{glob}={how}']"
        )
    weight = Tensor(f"{module}.weight", "U32", (*rows, width * spec.bits // 32))
    groups = (*rows, width // spec.group_size)
    if _stays(tensor, spec):
        return weight, Tensor(f"{module}.scales", "U8", groups), Tensor(f"{module}.{ROW_SCALE}", "F32", tuple(rows))
    if spec.mode != "affine":
        return weight, Tensor(f"{module}.scales", "U8", groups)
    return weight, Tensor(f"{module}.scales", "BF16", groups), Tensor(f"{module}.biases", "BF16", groups)


def _stays(tensor: Tensor, spec: QuantSpec | None) -> bool:
    return spec is not None and spec.mode == "nvfp4" and tensor.dtype == NVFP4 and tensor.name != EMBEDDINGS


def as_stored(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensors that stand for one of a checkpoint once it is loaded: itself, or the three of NVFP4."""
    spec = QuantSpec(*FIXED_MODES["nvfp4"], "nvfp4")
    module = module_of(tensor.name)
    return _converted(tensor, part_of(tensor.name), module, spec) if _stays(tensor, spec) else (tensor,)


def written_tensors(made: Iterable[Piece]) -> list[Tensor]:
    """All tensors that the pieces become, in order."""
    return [tensor for piece in made for tensor in piece.written]


def quantization_table(made: Iterable[Piece]) -> dict[str, object] | None:
    """The `quantization` for config.json: the experts' most frequent format as the default, other modules by path.

    None where nothing is quantised. Modules that have no scales in the files need no entry.
    """
    specs = {piece.module: piece.spec.stored for piece in made if piece.spec is not None}
    if not specs:
        return None
    experts = [spec for module, spec in specs.items() if ".experts." in module]
    (default, _), *_ = Counter(experts or specs.values()).most_common(1)
    others = {module: _entry(spec) for module, spec in specs.items() if spec != default}
    return {**_entry(default), **others}


def _entry(spec: QuantSpec) -> dict[str, object]:
    return {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode}


def bytes_by_part(made: Iterable[Piece]) -> dict[str, int]:
    """Bytes of the written tensors of each part, in the order of PARTS."""
    total = dict.fromkeys(PARTS, 0)
    for piece in made:
        total[piece.part] += piece.nbytes
    return total
