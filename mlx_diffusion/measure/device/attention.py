"""Trials of a canvas's attention behind a prefix: in parts, over joined keys, and by a fused kernel.

Knows nothing of other kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.config import LayerType, ModelConfig
from mlx_diffusion.measure.device.matrices import numbers
from mlx_diffusion.measure.device.trial import WIDTHS, Distance, Extent, KernelTrial, TrialSetup, distance, tried
from mlx_diffusion.network.attention import attend_both_ways
from mlx_diffusion.network.fused_attention import attend_fused
from mlx_diffusion.tuning import DTYPES, Tuning, using

PART, PARTS, JOINED, FUSED = "attention, heads of", "in parts", "joined keys", "fused"
PREFIX = 1024  # positions behind which canvases attend
QUERIES = 4  # that are held against float64


class AttentionTrials:
    """The trials of one kind of layer."""

    def __init__(self, config: ModelConfig, kind: LayerType, extent: Extent, dtypes: Sequence[str]) -> None:
        self.kv_heads, self.size = config.head_shape(kind)
        self.group, self.dtypes = config.num_attention_heads // self.kv_heads, dtypes
        each = 4 * max(WIDTHS) * (PREFIX + max(WIDTHS)) * self.size * self.group
        self.held = extent.of(self.kv_heads, each, 1)

    @property
    def part(self) -> str:
        return f"{PART} {self.size}"

    def setups(self) -> list[TrialSetup]:
        """What is tried, in order."""
        kernels = (PARTS, FUSED, JOINED)
        return [
            TrialSetup(self.part, kernel, dtype, width)
            for dtype in self.dtypes
            for width in WIDTHS
            for kernel in kernels
        ]

    def flops(self, setup: TrialSetup) -> int:
        """Operations of one run."""
        return 4 * setup.width * (PREFIX + setup.width) * self.size * self.group * self.held

    def run(self, setup: TrialSetup, allowed: float) -> KernelTrial:
        """Make one of them in about `allowed` seconds."""
        width, dtype = setup.width, DTYPES[setup.dtype]
        queries, *others = (array.astype(dtype) for array in self._input)
        queries, others = queries[:, :, :width], [array[:, :, : PREFIX + width] for array in others]
        before, canvas = ([array[:, :, place] for array in others] for place in (slice(PREFIX), slice(PREFIX, None)))
        mx.eval(queries, others, before, canvas)
        prefix, own = (before[0], before[1]), (canvas[0], canvas[1])

        def answer() -> mx.array:
            if setup.kernel == FUSED:
                return mx.swapaxes(attend_fused(queries, [(prefix, None), (own, None)])[0], 0, 1)
            if setup.kernel == JOINED:
                keys, values = (mx.concatenate(list(pair), axis=2) for pair in zip(before, canvas, strict=True))
                return mx.swapaxes(mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0)[0], 0, 1)
            with using(Tuning(fused_heads=())):
                return attend_both_ways(queries, own, None, prefix, None)

        cut = "" if self.held == self.kv_heads else f"{self.held} of {self.kv_heads} heads of keys"
        return tried(setup, answer, lambda made: self._judge(made, width), self.flops(setup), allowed, cut)

    @cached_property
    def _input(self) -> tuple[mx.array, mx.array, mx.array]:
        places = PREFIX + max(WIDTHS)
        scale = 2.0 ** round(-np.log2(self.size) / 2)
        queries = numbers((1, self.held * self.group, max(WIDTHS), self.size), 0) * scale
        keys, values = (numbers((1, self.held, places, self.size), seed) for seed in (1, 2))
        return queries, keys, values

    def _judge(self, made: mx.array, width: int) -> Distance:
        """[width, H, S] against the twin's first queries."""
        queries, keys, values = (np.array(array[0]).astype(np.float64) for array in self._input)
        keys, values = (np.repeat(array[:, : PREFIX + width], self.group, axis=0) for array in (keys, values))
        scores = queries[:, :QUERIES] @ keys.swapaxes(1, 2)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        twin = weights @ values / weights.sum(axis=-1, keepdims=True)
        return distance(made[:QUERIES], twin.swapaxes(0, 1))
