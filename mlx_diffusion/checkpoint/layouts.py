"""The layouts in which checkpoints are published, translated into the tensors of the Hub's own.

Matrices come plain, in FP8 or in NVFP4, with scales in tensors beside them; experts come in one array or one by one.
All of it is seen by the tensors' names, types and shapes, whatever config.json says. Knows nothing of arrays.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlx_diffusion.checkpoint.encodings import NVFP4_GROUP, Fp8, Nvfp4
from mlx_diffusion.checkpoint.formats import NVFP4, claimed_encoding
from mlx_diffusion.checkpoint.headers import ITEM_BYTES, StoredTensor, Tensor
from mlx_diffusion.checkpoint.stored import Component, RowBlock, SourceTensor
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError

# Scales of activations and of caches, which weights alone have no use for.
UNUSED = re.compile(r".+\.(input_scale|input_global_scale|[kv]_scale|[qkv]_scale_inv)")
SCALE = re.compile(r"(.+)\.weight_(scale|scale_2|global_scale|packed)")
UNREAD = re.compile(r".+\.weight_(scale_inv|zero_point)")  # of other formats
EXPERT = re.compile(
    r"(model\.(?:decoder|encoder\.language_model)\.layers\.\d+\.experts)\.(\d{1,9})\.(gate|up|down)_proj\.weight"
)
FUSED = {"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"}
BESIDE = {"scale": ("weight", "weight_packed"), "scale_2": ("weight_scale",), "global_scale": ("weight_packed",)}
SCALE_TYPES = ("BF16", "F16", "F32")


def translated(stored: Sequence[StoredTensor], where: str) -> list[SourceTensor]:
    """The tensors in these files by the names of the Hub's own layout. Raises CheckpointError, which `where` begins."""
    found = {entry.tensor.name: entry for entry in stored}
    if len(found) < len(stored):
        (name, _), *_ = Counter(entry.tensor.name for entry in stored).most_common(1)
        raise CheckpointError(f"{where}: {name} is there twice; remove the shard that is not its own")
    single = _matrices(found, where)
    return [*_fused(single, where), *(one for one in single if not EXPERT.fullmatch(one.tensor.name))]


def in_order(tensors: Iterable[SourceTensor], stored: Sequence[StoredTensor]) -> list[SourceTensor]:
    """The tensors in the order in which files are read: by the files that each needs, then by place."""
    files = {name: number for number, name in enumerate(dict.fromkeys(entry.file for entry in stored))}
    place = {entry.tensor.name: number for number, entry in enumerate(stored)}

    def key(one: SourceTensor) -> tuple[list[int], int]:
        parts = [component.stored.tensor.name for block in one.blocks for component in block.components]
        return sorted(files[name] for name in one.files), min(place[name] for name in parts)

    return sorted(tensors, key=key)


def encodings(tensors: Iterable[SourceTensor]) -> list[str]:
    """The names of all encodings but plain numbers, the most frequent first."""
    names = Counter(block.encoding.name for one in tensors for block in one.blocks)
    return [name for name, _ in names.most_common() if name not in ITEM_BYTES]


def unclaimed(raw: Mapping[str, Any], tensors: Iterable[SourceTensor], where: str) -> str | None:
    """A line about encodings that the tensors have and config.json does not name; None where there is none."""
    found = encodings(tensors)
    if not found or claimed_encoding(raw) is not None:
        return None
    return f"{where}: its config.json has no quantization_config; by its tensors it is in {' and '.join(found)}"


def check_claim(raw: Mapping[str, Any], tensors: Iterable[SourceTensor], where: str) -> None:
    """Refuse weights that are not of the encoding which config.json names. Raises CheckpointError."""
    claimed = claimed_encoding(raw)
    if claimed is not None and claimed not in encodings(tensors):
        raise CheckpointError(
            f"{where}: its quantization_config says {claimed}, and no tensor is in it; get the config that belongs to "
            "the weights"
        )


def check_loadable(tensors: Iterable[SourceTensor], where: str) -> None:
    """Refuse encodings that MLX does not compute with. Raises CheckpointError, with the command that converts them."""
    others = [name for name in encodings(tensors) if name != NVFP4]
    if others:
        raise CheckpointError(
            f"{where} is in {others[0]}, which MLX does not compute with; convert it, at 8 bits it loses little: "
            f"{shlex.join(['mlx-diffusion', 'convert', where, 'OUTPUT', '--recipe', '8bit'])}"
        )


def _matrices(found: Mapping[str, StoredTensor], where: str) -> list[SourceTensor]:
    """Every tensor with the scales beside it, by the name that it has where it is plain."""
    made = []
    other = next(filter(UNREAD.fullmatch, found), None)
    if other is not None:  # before its matrix is missed a scale that this format does not have
        raise CheckpointError(
            f"{where}: {other} belongs to a format that is not read; known are FP8 with one scale a row, and NVFP4"
        )
    for name, entry in found.items():
        if UNUSED.fullmatch(name):
            continue
        scale = SCALE.fullmatch(name)
        if scale is None:
            base = name.removesuffix(".weight")
            scaled = name.endswith(".weight") and f"{base}.weight_scale" in found
            made.append(_scaled(base, entry, found, where) if scaled else _plain(entry, where))
        elif scale[2] == "packed":
            made.append(_packed(scale[1], entry, found, where))
        elif f"{scale[1]}.scales" in found:  # MLX's own NVFP4, with a scale a row
            made.append(_plain(entry, where))
        elif not any(f"{scale[1]}.{beside}" in found for beside in BESIDE[scale[2]]):
            raise CheckpointError(
                f"{where}: {name} is there without {scale[1]}.{BESIDE[scale[2]][0]}; download the checkpoint again"
            )
    read = {part.stored.tensor.name for one in made for block in one.blocks for part in block.components}
    for name in found:
        if name not in read and not UNUSED.fullmatch(name):
            raise CheckpointError(f"{where}: {name} is no part of the format that the rest of its matrix is in")
    return made


def _plain(entry: StoredTensor, where: str) -> SourceTensor:
    tensor = entry.tensor
    if tensor.dtype.startswith("F8"):
        raise CheckpointError(
            f"{where}: {tensor.name} is {tensor.dtype} and has no weight_scale beside it; download the checkpoint again"
        )
    return SourceTensor.plain(entry)


def _scaled(base: str, weight: StoredTensor, found: Mapping[str, StoredTensor], where: str) -> SourceTensor:
    """A `weight` with a `weight_scale` beside it: FP8, or NVFP4 as modelopt writes it."""
    tensor = weight.tensor
    if tensor.dtype == "U8":
        whole = _beside(found, f"{base}.weight_scale_2", tensor, where)
        return _nvfp4(base, weight, found[f"{base}.weight_scale"], whole, False, where)
    if tensor.dtype != "F8_E4M3" or len(tensor.shape) != 2:
        raise CheckpointError(
            f"{where}: {tensor.name} is {tensor.dtype} {list(tensor.shape)} with a weight_scale, where FP8 has F8_E4M3 "
            "matrices and NVFP4 has U8; download the checkpoint again"
        )
    rows, width = tensor.shape
    scale = found[f"{base}.weight_scale"]
    if scale.tensor.shape in ((rows,), (rows, 1)) and rows > 1:
        factors = Component.by_rows(scale, rows)
    elif _is_one(scale):
        factors = Component.for_all(scale)
    else:
        raise _wrong_shape(scale, f"[{rows}, 1], one a row", where)
    _check_type(scale, SCALE_TYPES, where)
    block = RowBlock(rows, width, Fp8(), (Component.by_rows(weight, rows), factors))
    return SourceTensor(Tensor(tensor.name, block.encoding.name, tensor.shape), (block,))


def _packed(base: str, packed: StoredTensor, found: Mapping[str, StoredTensor], where: str) -> SourceTensor:
    """A `weight_packed`: NVFP4 as compressed-tensors writes it."""
    _check_type(packed, ("U8",), where)
    if f"{base}.weight" in found:
        raise CheckpointError(f"{where}: {base} has a weight and a weight_packed; keep one of them")
    scale = _beside(found, f"{base}.weight_scale", packed.tensor, where)
    whole = _beside(found, f"{base}.weight_global_scale", packed.tensor, where)
    return _nvfp4(base, packed, scale, whole, True, where)


def _nvfp4(
    base: str, packed: StoredTensor, scale: StoredTensor, whole: StoredTensor, reciprocal: bool, where: str
) -> SourceTensor:
    tensor = packed.tensor
    if len(tensor.shape) != 2:
        raise _wrong_shape(packed, "[rows, half the width]", where)
    rows, width = tensor.shape[0], 2 * tensor.shape[1]
    if width % NVFP4_GROUP:
        raise CheckpointError(
            f"{where}: {tensor.name} has rows of {count_of(width, 'number')}, which NVFP4's groups of {NVFP4_GROUP} "
            "do not divide"
        )
    if scale.tensor.shape != (rows, width // NVFP4_GROUP):
        raise _wrong_shape(scale, str([rows, width // NVFP4_GROUP]), where)
    _check_type(scale, ("F8_E4M3",), where)
    if not _is_one(whole):
        raise _wrong_shape(whole, "[], one number", where)
    _check_type(whole, SCALE_TYPES, where)
    parts = (Component.by_rows(packed, rows), Component.by_rows(scale, rows), Component.for_all(whole))
    block = RowBlock(rows, width, Nvfp4(reciprocal), parts)
    return SourceTensor(Tensor(f"{base}.weight", block.encoding.name, (rows, width)), (block,))


def _fused(single: Iterable[SourceTensor], where: str) -> list[SourceTensor]:
    """The fused arrays of experts that come one by one: expert by expert, gate rows before up rows."""
    layers: dict[str, dict[tuple[int, str], SourceTensor]] = {}
    for one in single:
        match = EXPERT.fullmatch(one.tensor.name)
        if match:
            layers.setdefault(f"{match[1]}.{FUSED[match[3]]}", {})[int(match[2]), match[3]] = one
    return [_stacked(name, parts, where) for name, parts in layers.items()]


def _stacked(name: str, parts: Mapping[tuple[int, str], SourceTensor], where: str) -> SourceTensor:
    kinds = [kind for kind, fused in FUSED.items() if name.endswith(fused)]
    count = 1 + max(expert for expert, _ in parts)
    base = name.rpartition(".")[0]
    blocks: list[RowBlock] = []
    shapes = set()
    for expert in range(count):
        for kind in kinds:
            one = parts.get((expert, kind))
            if one is None:
                raise CheckpointError(
                    f"{where}: {base}.{expert}.{kind}_proj.weight is missing; download the checkpoint again"
                )
            blocks += one.blocks
            shapes.add(one.tensor.shape)
    if len(shapes) > 1 or len(min(shapes)) != 2:
        found = ", ".join(str(list(shape)) for shape in sorted(shapes))
        raise CheckpointError(
            f"{where}: the experts of {name} have the shapes {found}, where one [rows, width] is right"
        )
    ((rows, width),) = shapes
    kept_as = Counter(block.encoding.name for block in blocks)
    return SourceTensor(Tensor(name, " and ".join(kept_as), (count, len(kinds) * rows, width)), tuple(blocks))


def _beside(found: Mapping[str, StoredTensor], name: str, tensor: Tensor, where: str) -> StoredTensor:
    if name not in found:
        raise CheckpointError(
            f"{where}: {name} is missing, without which {tensor.name} cannot be read; download the checkpoint again"
        )
    return found[name]


def _is_one(entry: StoredTensor) -> bool:
    """True for a tensor of one number."""
    return all(length == 1 for length in entry.tensor.shape)


def _check_type(entry: StoredTensor, types: Sequence[str], where: str) -> None:
    if entry.tensor.dtype not in types:
        raise CheckpointError(
            f"{where}: {entry.tensor.name} holds {entry.tensor.dtype}, not {' or '.join(types)}; it is not what its "
            "name says"
        )


def _wrong_shape(entry: StoredTensor, expected: str, where: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: {entry.tensor.name} has shape {list(entry.tensor.shape)}, where {expected} is right; download the "
        "checkpoint again"
    )
