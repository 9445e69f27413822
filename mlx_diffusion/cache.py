"""The prefix cache: keys and values of everything encoded so far, one entry a layer.

Sliding layers keep the window - 1 positions that a later pass can still see, full layers keep all. Knows nothing of
attention or of what the tokens were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

from .config import SLIDING, ModelConfig
from .masks import first_prefix_position

KeysValues = tuple[mx.array, mx.array]


class LayerCache:
    """Keys and values of one layer, each [B, K, held, S]; the positions are the last `held` of those encoded."""

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def with_new(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """What is held, followed by the new positions. Writes nothing."""
        if self.keys is None or self.values is None:
            return keys, values
        return mx.concatenate([self.keys, keys], axis=2), mx.concatenate([self.values, values], axis=2)

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take the new positions in; returns all that they may see: what was held, and themselves."""
        keys, values = self.with_new(keys, values)
        drop = first_prefix_position(keys.shape[2], self.window)
        # A slice alone would keep the whole array alive behind it.
        self.keys = mx.contiguous(keys[:, :, drop:]) if drop else keys
        self.values = mx.contiguous(values[:, :, drop:]) if drop else values
        return keys, values


class PrefixCache:
    """The cache of a batch whose rows are padded on the left to one length."""

    def __init__(self, config: ModelConfig, left_padding: Sequence[int]) -> None:
        """left_padding: how many pads each row of the batch begins with, [0] for a single prompt."""
        if not left_padding or min(left_padding) < 0:
            raise ValueError(f"left_padding = {list(left_padding)!r} must give a count of 0 or more for every row")
        self.offset = 0  # positions encoded so far, padding included
        self.left_padding = mx.array(list(left_padding), dtype=mx.int32)  # [B]
        self.layers = [LayerCache(config.sliding_window if t == SLIDING else None) for t in config.layer_types]
        self._most_padding = max(left_padding)
        self._head_shapes = [config.head_shape(layer_type) for layer_type in config.layer_types]

    @property
    def batch_size(self) -> int:
        return self.left_padding.shape[0]

    @property
    def next_position(self) -> int | mx.array:
        """Where the next token stands in its row, for RoPE: an int, or [B] where rows are padded.

        Counted from a row's own first token, so that it turns by the same angles alone and in a batch. Transformers
        counts the padding too; RoPE being relative, the two differ by the rounding of angles alone (1e-4 in the
        logits of a random network behind 600 padded positions).
        """
        return self.offset - self.left_padding if self._most_padding else self.offset

    def first_held(self, window: int | None) -> int:
        """The position of the first key that layers with this window hold."""
        return first_prefix_position(self.offset, window)

    def padding_from(self, position: int) -> mx.array | None:
        """left_padding if any row still has a pad at or after this position, else None."""
        return self.left_padding if self._most_padding > position else None

    def advance(self, count: int) -> None:
        """Count the positions that every layer has just taken in."""
        self.offset += count

    def arrays(self) -> list[mx.array]:
        """All keys and values, for mx.eval."""
        return [a for layer in self.layers for a in (layer.keys, layer.values) if a is not None]

    def split(self) -> tuple[dict[int, KeysValues], dict[int, KeysValues]]:
        """What full and what sliding layers hold, by layer. MLX's arrays do not change, so nothing is copied."""
        held = [(layer.keys, layer.values, layer.window) for layer in self.layers]
        full = {i: (k, v) for i, (k, v, window) in enumerate(held) if k is not None and v is not None and not window}
        sliding = {i: (k, v) for i, (k, v, window) in enumerate(held) if k is not None and v is not None and window}
        return full, sliding

    def restore(self, offset: int, held: Mapping[int, KeysValues]) -> None:
        """Take up an encoding of `offset` positions again, from what every layer held then."""
        self.offset = offset
        for index, layer in enumerate(self.layers):
            layer.keys, layer.values = held[index]

    def bytes_at(self, offset: int, item_bytes: int) -> int:
        """What a row of this cache takes once it holds `offset` positions."""
        return sum(
            2 * heads * (offset - first_prefix_position(offset, layer.window)) * head_dim * item_bytes
            for layer, (heads, head_dim) in zip(self.layers, self._head_shapes, strict=True)
        )

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())
