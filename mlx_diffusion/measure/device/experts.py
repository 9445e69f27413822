"""Trials of a layer's experts, as the model runs them: rows sorted by expert and not, in each type and width.

Knows nothing of other kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import quantised_layer
from mlx_diffusion.measure.device.matrices import Matrix, numbers
from mlx_diffusion.measure.device.trial import WIDTHS, Distance, Extent, KernelTrial, TrialSetup, distance, tried
from mlx_diffusion.network.layers import Experts, unshrunk
from mlx_diffusion.tuning import DTYPES, WIDEST_SORT, Tuning, using

PART, SORTED, UNSORTED = "experts", "sorted by expert", "in any order"
TOKENS = 2  # of a result that are held against float64
LEAST_INNER = 32
ROOT_2_PI = np.sqrt(2 / np.pi)


class ExpertTrials:
    """The trials of one layer's experts; each position chooses its own at random."""

    def __init__(
        self, config: ModelConfig, specs: Sequence[QuantSpec | None], extent: Extent, dtypes: Sequence[str]
    ) -> None:
        """specs: the formats of gate_up_proj and of down_proj."""
        self.full, self.specs, self.dtypes = config, specs, dtypes
        positions = max(WIDTHS) * config.top_k_experts
        inner = extent.of(config.moe_intermediate_size, 6 * positions * config.hidden_size, LEAST_INNER)
        self.config = replace(config, moe_intermediate_size=inner)

    def setups(self) -> list[TrialSetup]:
        """What is tried, in order."""
        return [
            TrialSetup(PART, kernel, dtype, width)
            for dtype in self.dtypes
            for width in WIDTHS
            for kernel in (SORTED, UNSORTED)
        ]

    def flops(self, setup: TrialSetup) -> int:
        """Operations of one run."""
        rows = setup.width * self.config.top_k_experts
        return 6 * rows * self.config.hidden_size * self.config.moe_intermediate_size

    def run(self, setup: TrialSetup, allowed: float) -> KernelTrial:
        """Make one of them in about `allowed` seconds."""
        x, chosen, weights = self._input
        experts, width, config = self._experts(setup.dtype), setup.width, self.config
        rows = x[:width].astype(DTYPES[setup.dtype])
        tuning = Tuning(sort_from=0 if setup.kernel == SORTED else WIDEST_SORT)

        def answer() -> mx.array:
            with using(tuning):
                return unshrunk(experts(rows, chosen[:width], weights[:width]), mx.float32)

        inner, all_of = config.moe_intermediate_size, self.full.moe_intermediate_size
        cut = "" if inner == all_of else f"{inner:,} of {all_of:,} in the middle"
        return tried(setup, answer, self._judge, self.flops(setup), allowed, cut)

    @cached_property
    def _input(self) -> tuple[mx.array, mx.array, mx.array]:
        config, rng = self.config, np.random.default_rng(0)
        chosen = np.argsort(rng.random((max(WIDTHS), config.num_experts)), axis=-1)[:, : config.top_k_experts]
        weights = rng.random(chosen.shape, dtype=np.float32) / config.top_k_experts
        return numbers((max(WIDTHS), config.hidden_size), 0), mx.array(chosen.astype(np.uint32)), mx.array(weights)

    @cached_property
    def _matrices(self) -> tuple[Matrix, Matrix]:
        config = self.config
        count, hidden, inner = config.num_experts, config.hidden_size, config.moe_intermediate_size
        up, down = self.specs
        return Matrix.random((count, 2 * inner, hidden), up, 1), Matrix.random((count, hidden, inner), down, 2)

    def _experts(self, dtype: str) -> Experts:
        """The layer, with activations of a type. The random weights that it is made with are never computed."""
        made = Experts(self.config)
        for name, matrix, spec in zip(("gate_up_proj", "down_proj"), self._matrices, self.specs, strict=True):
            if spec is not None:
                made[name] = quantised_layer(made[name], spec)
            for array, values in matrix.arrays(DTYPES[dtype]).items():
                made[name][array] = values
        return made

    @cached_property
    def _twin(self) -> np.ndarray:
        up, down = self._matrices
        x, chosen, weights = (np.array(array[:TOKENS]) for array in self._input)
        twin = np.zeros((TOKENS, self.config.hidden_size))
        for token in range(TOKENS):
            for expert, weight in zip(chosen[token].tolist(), weights[token].tolist(), strict=True):
                gate, above = np.split(up.exact(expert) @ x[token].astype(np.float64), 2)
                gelu = 0.5 * gate * (1 + np.tanh(ROOT_2_PI * (gate + 0.044715 * gate**3)))
                twin[token] += weight * (down.exact(expert) @ (gelu * above))
        return twin

    def _judge(self, made: mx.array) -> Distance:
        return distance(made[:TOKENS], self._twin)
