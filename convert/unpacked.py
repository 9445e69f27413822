"""A checkpoint of any encoding as plain numbers, whatever MLX could compute with as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx

from mlx_diffusion.checkpoint.folder import Checkpoint


class UnpackedCheckpoint(Checkpoint):
    """A checkpoint none of whose tensors stays packed."""

    @classmethod
    def of(cls, found: Checkpoint) -> UnpackedCheckpoint:
        return cls(found.folder, replace(found.config, quantization=None), found.files, found.sources)

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, mx.array]:
        """The tensors of a name that is wanted, lazy."""
        arrays = self._stored()
        return {one.tensor.name: one.numbers(arrays) for one in self.sources if wanted(one.tensor.name)}
