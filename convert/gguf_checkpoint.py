"""A GGUF as a checkpoint that can be computed with, unpacked: for comparisons with what was made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.stored import RowBlock
from mlx_diffusion.convert.gguf_source import GgufSource
from mlx_diffusion.convert.inspection import read_config
from mlx_diffusion.device import activation_dtype

ROWS = 256  # that are unpacked at once


class GgufCheckpoint(Checkpoint):
    """A checkpoint whose tensors are unpacked when they are asked for."""

    @classmethod
    def beside(cls, path: Path, folder: Path) -> GgufCheckpoint:
        """The file at `path`, with the tokenizer and the defaults of a folder."""
        source = GgufSource(path, folder)
        _, raw, config = read_config(source)
        return cls(folder, config, tuple(source.paths), tuple(source.tensors(raw, config)))

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, mx.array]:
        """The tensors of a name that is wanted, in the type of activations."""
        return {
            one.tensor.name: mx.concatenate([self._rows(block) for block in one.blocks]).reshape(one.tensor.shape)
            for one in self.sources
            if wanted(one.tensor.name)
        }

    def _rows(self, block: RowBlock) -> mx.array:
        (name,) = {*block.files}
        made = []
        with (self.files[0].parent / name).open("rb") as stream:
            for first in range(0, block.rows, ROWS):
                count = min(ROWS, block.rows - first)
                data = []
                for span in block.spans(first, count):
                    stream.seek(span.offset)
                    data.append(stream.read(span.nbytes))
                made.append(block.encoding.values(block.arrays(data, count)).astype(activation_dtype()))
                mx.eval(made[-1])
        return mx.concatenate(made)
