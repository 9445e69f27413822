"""A source's tensors as lazy arrays in the layout that MLX computes with: nothing is read before it is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

import mlx.core as mx

from mlx_diffusion.checkpoint.encodings import Nvfp4
from mlx_diffusion.checkpoint.stored import SourceTensor, is_plain
from mlx_diffusion.checkpoint.tensor_names import EMBEDDINGS, ROW_SCALE, module_of


def lazy_tensors(sources: Iterable[SourceTensor], arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The tensors by the names that the model's own files give them; `arrays` are those in the source's files.

    NVFP4 becomes weight, scales and weight_scale_2 of its module, FP8 becomes float32.
    """
    made: dict[str, mx.array] = {}
    for source in sources:
        encodings = [block.encoding for block in source.blocks]
        if is_plain(source):
            made[source.tensor.name] = arrays[source.tensor.name]
        elif source.tensor.name != EMBEDDINGS and _all_nvfp4(encodings):
            made |= _packed(source, encodings, arrays)
        else:
            made[source.tensor.name] = source.numbers(arrays)
    return made


def _all_nvfp4(encodings: Sequence[object]) -> TypeGuard[Sequence[Nvfp4]]:
    return all(isinstance(encoding, Nvfp4) for encoding in encodings)


def _packed(source: SourceTensor, encodings: Sequence[Nvfp4], arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    parts = [block.lazy(arrays) for block in source.blocks]
    rows, module = source.tensor.shape[:-1], module_of(source.tensor.name)
    factors = [
        mx.broadcast_to(encoding.factor(part), (block.rows,))
        for encoding, part, block in zip(encodings, parts, source.blocks, strict=True)
    ]
    return {
        f"{module}.weight": _joined([part[0] for part in parts]).view(mx.uint32).reshape(*rows, -1),
        f"{module}.scales": _joined([part[1] for part in parts]).reshape(*rows, -1),
        f"{module}.{ROW_SCALE}": _joined(factors).reshape(rows),
    }


def _joined(blocks: list[mx.array]) -> mx.array:
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=0)
