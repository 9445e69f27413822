"""The memory that a run of a checkpoint takes: weights, prefix cache, and the arrays of its largest step.

Weights and cache are exact. The arrays are upper bounds, measured with mx.get_peak_memory on small models, for which
MLX has no fused attention; neither has it on Apple's GPUs for heads of 256 and 512 and more than a few queries.
Knows nothing of machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from mlx_diffusion.checkpoint.config import FULL, ModelConfig
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.pieces import as_stored
from mlx_diffusion.checkpoint.tensor_names import ROW_SCALE, VISION
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.masks import QUERIES
from mlx_diffusion.network.sampling import columns
from mlx_diffusion.network.split_attention import CANVAS_SCORES, PROMPT_SCORES, widest
from mlx_diffusion.options import DEFAULTS

GPU_ITEM, CPU_ITEM = 2, 4  # bytes of an activation: bf16 on a GPU, float32 on a CPU
FLOAT32 = 4

# The number of arrays of each kind that are alive at the worst moment.
LOGITS = 10.2  # float32 [L, columns(V)]: one chunk of the vocabulary, and the next ones that MLX has begun
SCORES = 1.1  # [H, queries, keys] of one layer, its mask included
SCORES_IN_TWO, PARTS_OF_SCORES = 5, 16  # the same in float32: of prefix and canvas; of keys that come in parts
HEADS = 12  # [queries, H, S]: the queries in all their forms, and the result of attention
HIDDENS = 10  # [queries, D]: inputs and outputs of a layer's attention
EXPERT_OUTPUTS, EXPERT_INNERS = 7, 4  # [T, A, D] and [T, A, F]


@dataclass(frozen=True)
class Memory:
    """The memory of a loaded model that runs one prompt."""

    config: ModelConfig
    weight_bytes: int
    item_bytes: int = GPU_ITEM
    prefill_step_size: int = DEFAULTS.prefill_step_size

    def in_steps_of(self, prefill_step_size: int) -> Memory:
        """The same run with prompts encoded in parts of that many tokens."""
        return replace(self, prefill_step_size=prefill_step_size)

    def cache_bytes(self, context: int) -> int:
        """Keys and values of that many positions: all of them in full layers, a window in the others."""
        return PrefixCache(self.config, spare=0).bytes_at(context, self.item_bytes)

    def step_bytes(self, context: int) -> int:
        """The arrays beside weights and cache, at the worst moment of encoding a prompt or denoising a canvas."""
        canvas = self.config.canvas_length
        denoising = self._pass_bytes(canvas, canvas, context, CANVAS_SCORES, SCORES_IN_TWO * FLOAT32)
        part = min(self.prefill_step_size, context)
        encoding = self._pass_bytes(part, min(part, QUERIES), context, PROMPT_SCORES, SCORES * self.item_bytes)
        logits = LOGITS * columns(self.config.vocab_size) * FLOAT32
        return max(round(logits * canvas), denoising, encoding)

    def total_bytes(self, context: int) -> int:
        return self.weight_bytes + self.cache_bytes(context) + self.step_bytes(context)

    def longest_context(self, limit_bytes: int) -> int | None:
        """The most positions that fit; None where not even one canvas does."""
        fits, last = self.config.canvas_length, self.config.max_position_embeddings
        if self.total_bytes(fits) > limit_bytes:
            return None
        if self.total_bytes(last) <= limit_bytes:
            return last
        while last - fits > 1:
            middle = (fits + last) // 2
            if self.total_bytes(middle) <= limit_bytes:
                fits = middle
            else:
                last = middle
        return fits

    def _pass_bytes(self, queries: int, together: int, keys: int, most_scores: int, score_bytes: float) -> int:
        """Arrays of one layer for that many positions at once: the larger of its attention and its experts.

        `together` of the queries attend at a time.
        """
        config = self.config
        _, head_dim = config.head_shape(FULL)
        rows = config.num_attention_heads * together
        width = widest(max(rows, 1), most_scores)
        scores = PARTS_OF_SCORES * FLOAT32 * width if keys > width else score_bytes * keys
        heads = HEADS * config.num_attention_heads * queries * head_dim
        attention = rows * scores / self.item_bytes + heads + HIDDENS * queries * config.hidden_size
        experts = (
            queries
            * config.top_k_experts
            * (EXPERT_OUTPUTS * config.hidden_size + EXPERT_INNERS * config.moe_intermediate_size)
        )
        return round(max(attention, experts) * self.item_bytes)


def item_bytes_on(device: str) -> int:
    """Bytes of an activation on "gpu" or "cpu"."""
    return GPU_ITEM if device == "gpu" else CPU_ITEM


def weight_bytes(tensors: Iterable[Tensor], item_bytes: int = GPU_ITEM) -> int:
    """Bytes of the text model's weights in memory: packed bits as they are, all else in the type of activations."""
    return sum(
        tensor.nbytes if _is_as_stored(tensor) else math.prod(tensor.shape) * item_bytes
        for tensor in tensors
        if not tensor.name.startswith(VISION)
    )


def _is_as_stored(tensor: Tensor) -> bool:
    return tensor.dtype.startswith("U") or tensor.name.endswith(f".{ROW_SCALE}")


def stored_weight_bytes(tensors: Iterable[Tensor], item_bytes: int = GPU_ITEM) -> int:
    """The same for a checkpoint whose tensors are stored in these types or encodings."""
    return weight_bytes((loaded for tensor in tensors for loaded in as_stored(tensor)), item_bytes)
