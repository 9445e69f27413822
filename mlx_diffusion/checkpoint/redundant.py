"""Tensors that say again what others say: copies of tied matrices, tables of RoPE, embedders of audio.

Readers of these checkpoints drop them. They are dropped here if they are what their names claim, which is looked up in
their numbers, and are an error if not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.config import FULL, SLIDING, LayerType, ModelConfig
from mlx_diffusion.checkpoint.headers import ITEM_BYTES
from mlx_diffusion.checkpoint.stored import SourceTensor, Span
from mlx_diffusion.checkpoint.tensor_names import DECODER, EMBEDDINGS
from mlx_diffusion.checkpoint.text_tensors import FLOATING
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError

ENCODER = "model.encoder.language_model."  # whose only tensors of its own are the layers' scalars
ROTARY = re.compile(
    r"model\.(?:decoder|encoder\.language_model)\.(?:layers\.(\d{1,9})\..+\.)?rotary_emb\."
    r"(?:(sliding_attention|full_attention)_)?(?:original_)?inv_freq"
)
AUDIO = re.compile(r"model\.(?:encoder\.)?embed_audio\..+")
ROUNDING = 2.0**-8  # of bf16, in which such a table may be stored


@dataclass(frozen=True)
class Copy:
    """A tensor that must have the numbers of the one that it stands beside, in bf16."""

    source: SourceTensor

    @property
    def files(self) -> tuple[str, ...]:
        return self.source.files

    def spans(self, first: int, count: int) -> list[Span]:
        """What is read to check some rows."""
        return [span for block, start, rows in self.source.pieces(first, count) for span in block.spans(start, rows)]

    def holds(self, data: Sequence[bytes], first: int, rows: mx.array) -> bool:
        """True if what was read for these rows has their numbers, bf16 [rows, width]."""
        left = list(data)
        values = []
        for block, _, count in self.source.pieces(first, len(rows)):
            own, left = left[: len(block.components)], left[len(block.components) :]
            values.append(block.encoding.values(block.arrays(own, count)).astype(mx.bfloat16))
        return bool(mx.array_equal(mx.concatenate(values), rows).item())

    def holds_whole(self, arrays: Mapping[str, mx.array], numbers: mx.array) -> bool:
        """The same of all rows, read from the lazy arrays of the files."""
        return bool(mx.array_equal(self.source.numbers(arrays).astype(mx.bfloat16), numbers.astype(mx.bfloat16)).item())

    def problem(self, name: str) -> str:
        return (
            f"{self.source.tensor.name} is a copy of {name} by its name, and its numbers are others; remove one of both"
        )


@dataclass(frozen=True)
class Frequencies:
    """A table that must be the frequencies of RoPE as config.json has them, of one layer type or of either."""

    source: SourceTensor
    expected: tuple[tuple[float, ...], ...]

    @property
    def files(self) -> tuple[str, ...]:
        return self.source.files

    def spans(self, first: int, count: int) -> list[Span]:
        """All of it, with the first rows of the tensor that it stands beside."""
        return self.source.blocks[0].spans(0, 1) if first == 0 else []

    def holds(self, data: Sequence[bytes], first: int, rows: mx.array) -> bool:
        return first > 0 or self._right(self.source.blocks[0].arrays(data, 1)[0])

    def holds_whole(self, arrays: Mapping[str, mx.array], numbers: mx.array) -> bool:
        return self._right(self.source.numbers(arrays))

    def _right(self, table: mx.array) -> bool:
        found = np.array(table.astype(mx.float32)).reshape(-1)
        return any(
            len(found) == len(one) and np.allclose(found, np.array(one), rtol=ROUNDING, atol=0) for one in self.expected
        )

    def problem(self, name: str) -> str:
        return f"{self.source.tensor.name} has other frequencies than config.json's rope_parameters; remove or mend one"


def without_copies(tensors: Sequence[SourceTensor], config: ModelConfig, where: str) -> list[SourceTensor]:
    """The tensors that are the model's; each that a dropped one repeats has a check of it. Raises CheckpointError."""
    found = {one.tensor.name: one for one in tensors}
    kept = {name: one for name, one in found.items() if not _repeats(name, found)}
    for name, one in found.items():
        original, rotary = original_of(name), ROTARY.fullmatch(name)
        if name in kept:
            continue
        if AUDIO.fullmatch(name):
            _check_audio(one, config, where)
        elif one.tensor.dtype in ITEM_BYTES and one.tensor.dtype not in FLOATING:  # other names are of encodings
            raise CheckpointError(
                f"{where}: {name} repeats another tensor by its name, and holds {one.tensor.dtype}, not one of "
                f"{', '.join(FLOATING)}; remove it"
            )
        elif rotary:
            _stand_beside(kept, Frequencies(one, _frequencies(config, rotary[1], rotary[2])))
        elif found[original].tensor.shape == one.tensor.shape:
            kept[original] = replace(kept[original], checks=(*kept[original].checks, Copy(one)))
        else:
            raise CheckpointError(
                f"{where}: {name} is a copy of {original} by its name, and has the shape {list(one.tensor.shape)} "
                f"where that has {list(found[original].tensor.shape)}"
            )
    return list(kept.values())


def _repeats(name: str, found: Collection[str]) -> bool:
    return original_of(name) in found or bool(ROTARY.fullmatch(name) or AUDIO.fullmatch(name))


def original_of(name: str) -> str:
    """The name of the tensor that one of this name would repeat; empty for none."""
    if name == "lm_head.weight":
        return EMBEDDINGS
    if name.startswith(ENCODER) and not name.endswith(".layer_scalar") and not ROTARY.fullmatch(name):
        return DECODER + name.removeprefix(ENCODER)
    return ""


def check_copies(tensors: Iterable[SourceTensor], arrays: Mapping[str, mx.array], where: str) -> None:
    """Refuse dropped tensors that are not what they claim; `arrays` has those of the files. Raises CheckpointError."""
    for one in tensors:
        for check in one.checks:
            if not check.holds_whole(arrays, one.numbers(arrays)):
                raise CheckpointError(f"{where}: {check.problem(one.tensor.name)}")


def _stand_beside(kept: dict[str, SourceTensor], check: Frequencies) -> None:
    """Check the table along with a tensor of the same file, so that no other file has to be there."""
    near = [name for name, one in kept.items() if one.files == check.files]
    name = (near or [EMBEDDINGS])[0]
    if name in kept:
        kept[name] = replace(kept[name], checks=(*kept[name].checks, check))


def _frequencies(config: ModelConfig, layer: str | None, kind: str | None) -> tuple[tuple[float, ...], ...]:
    if layer is not None and int(layer) < config.num_hidden_layers:
        return (_table(config, config.layer_types[int(layer)]),)
    kinds: tuple[LayerType, ...] = (SLIDING, FULL)
    return tuple(_table(config, one) for one in kinds if one in config.rope and kind in (None, one))


def _table(config: ModelConfig, layer_type: LayerType) -> tuple[float, ...]:
    """θ^(−2i/S) for the pairs that turn, 0 for the others."""
    rope, (_, size) = config.rope[layer_type], config.head_shape(layer_type)
    turning = int(rope.rotated * size // 2)
    return tuple(rope.theta ** (-2 * pair / size) if pair < turning else 0.0 for pair in range(size // 2))


def _check_audio(one: SourceTensor, config: ModelConfig, where: str) -> None:
    """An embedder of audio projects into the hidden states: numbers, whose matrices have a row for each of them."""
    shape = one.tensor.shape
    projects = not one.tensor.name.endswith("projection.weight") or (len(shape) == 2 and shape[0] == config.hidden_size)
    if one.tensor.dtype not in FLOATING or not projects:
        raise CheckpointError(
            f"{where}: {one.tensor.name}, {one.tensor.dtype} {list(shape)}, is no embedder of audio into "
            f"{count_of(config.hidden_size, 'number')}, as its name says"
        )
