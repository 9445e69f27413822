"""Trials of the head with what the sampler asks of its logits: the soft signal and the most likely token.

Knows nothing of other kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.packing import quantised_layer
from mlx_diffusion.display import count_of
from mlx_diffusion.measure.device.matrices import Matrix, numbers
from mlx_diffusion.measure.device.trial import WIDTHS, Distance, Extent, KernelTrial, TrialSetup, distance, tried
from mlx_diffusion.network.head import survey_vocabulary
from mlx_diffusion.network.sampling import columns
from mlx_diffusion.tuning import DTYPES

PART, KERNEL = "head and sampler", "by chunks of the vocabulary"
ROWS, LEAST_TOKENS, SHARPNESS = 4, 512, 4.0
TWIN_TOKENS = 8192  # of the table in float64 at a time


class SurveyTrials:
    """The trials of the head."""

    def __init__(self, config: ModelConfig, spec: QuantSpec | None, extent: Extent, dtypes: Sequence[str]) -> None:
        self.config, self.spec, self.dtypes = config, spec, dtypes
        each = 4 * max(WIDTHS) * config.hidden_size
        self.tokens = extent.of(config.vocab_size, each, min(LEAST_TOKENS, config.vocab_size))

    def setups(self) -> list[TrialSetup]:
        """What is tried, in order."""
        return [TrialSetup(PART, KERNEL, dtype, width) for dtype in self.dtypes for width in WIDTHS]

    def flops(self, setup: TrialSetup) -> int:
        """Operations of one run."""
        return 4 * setup.width * self.config.hidden_size * self.tokens

    def run(self, setup: TrialSetup, allowed: float) -> KernelTrial:
        """Make one of them in about `allowed` seconds."""
        x, width, count = self._input, setup.width, self.tokens
        table, dtype = self._table(setup.dtype), DTYPES[setup.dtype]
        hidden = x[:width].astype(dtype)

        def handicaps(sources: Sequence[mx.array], first: int) -> mx.array:
            return mx.zeros((width, min(columns(count), count - first)))

        def answer() -> mx.array:
            made = survey_vocabulary(hidden, table, self.config.final_logit_softcapping, 1.0, 1.0, [], handicaps)
            return mx.concatenate([made.soft.astype(mx.float32), made.argmax[:, None].astype(mx.float32)], axis=-1)

        cut = "" if count == self.config.vocab_size else f"{count:,} of {count_of(self.config.vocab_size, 'token')}"
        return tried(setup, answer, self._judge, self.flops(setup), allowed, cut)

    @cached_property
    def _input(self) -> mx.array:
        return numbers((max(WIDTHS), self.config.hidden_size), 0) * SHARPNESS

    @cached_property
    def _matrix(self) -> Matrix:
        return Matrix.random((self.tokens, self.config.hidden_size), self.spec, 1)

    def _table(self, dtype: str) -> nn.Embedding:
        """The embedding table, with activations of a type. The weights that it is made with are never computed."""
        made, spec = nn.Embedding(self.tokens, self.config.hidden_size), self.spec
        if spec is not None:
            made = quantised_layer(made, spec)
        for array, values in self._matrix.arrays(DTYPES[dtype]).items():
            made[array] = values
        return made

    @cached_property
    def _twin(self) -> tuple[np.ndarray, np.ndarray]:
        """The soft signal [ROWS, D] and the most likely tokens [ROWS]."""
        x, softcap = np.array(self._input[:ROWS]).astype(np.float64), self.config.final_logit_softcapping
        chunks = [slice(first, first + TWIN_TOKENS) for first in range(0, self.tokens, TWIN_TOKENS)]
        logits = np.concatenate([x @ self._matrix.exact(chunk).T for chunk in chunks], axis=-1)
        logits = np.tanh(logits / softcap) * softcap
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        soft = sum(weights[:, chunk] @ self._matrix.exact(chunk) for chunk in chunks)
        return soft / weights.sum(axis=-1, keepdims=True), logits.argmax(axis=-1)

    def _judge(self, made: mx.array) -> Distance:
        soft, argmax = self._twin
        found = np.array(made[:ROWS, -1]).astype(np.int64)
        return distance(made[:ROWS, :-1], soft, f"another token at {(found != argmax).sum()} of {ROWS} positions")
