"""The prefix cache: keys and values of everything encoded so far, one entry a layer.

Sliding layers keep the window - 1 positions that a later pass can still see, full layers keep all. Arrays have room for
more than they hold, so that new positions are written in place and the arrays have few shapes. Knows nothing of
attention or of what the tokens were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_diffusion.checkpoint.config import SLIDING, LayerType, ModelConfig
from mlx_diffusion.network.masks import first_prefix_position, prefix_mask

KeysValues = tuple[mx.array, mx.array]

LEAST_ROOM, LARGEST_STEP = 64, 8192


class Prefix(NamedTuple):
    """What a canvas sees of a cache, as arrays alone: made once a block, few shapes over all prefix lengths."""

    layers: list[KeysValues | tuple[()]]  # a layer's keys and values, each [B, K, room, S]; () where it holds none
    seen: dict[LayerType, mx.array]  # which of them are real: bool [B or 1, 1, 1, room]
    position: mx.array  # int32 [] or [B], where the canvas begins


class LayerCache:
    """Keys and values of one layer, each [B, K, room, S]; the first `held` are the last positions encoded."""

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.held = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def append(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Take the new positions in; returns all that they may see: what was held, and themselves."""
        before = self.held
        self.held += keys.shape[2] - first_prefix_position(before + keys.shape[2], self.window)
        self.keys, seen_keys = self._taken_in(self.keys, keys, before)
        self.values, seen_values = self._taken_in(self.values, values, before)
        return seen_keys, seen_values

    def restore(self, keys: mx.array, values: mx.array, held: int) -> None:
        """Hold the first `held` of these positions instead."""
        self.held, wanted = held, room(held, self.window)
        self.keys, self.values = (_with_room(array[:, :, :wanted], wanted) for array in (keys, values))

    def _taken_in(self, old: mx.array | None, new: mx.array, before: int) -> KeysValues:
        """The array to keep, and all that the new positions may see."""
        total = before + new.shape[2]
        if total > self.held:
            seen = new if old is None else mx.concatenate([old[:, :, :before], new], axis=2)
            # A slice alone would keep the whole array alive behind it.
            return mx.contiguous(seen[:, :, total - self.held :]), seen
        if old is not None and total <= old.shape[2]:
            kept = mx.slice_update(old, new, mx.array([before]), axes=(2,))  # in place where nobody else holds `old`
        else:
            parts = [new] if old is None else [old[:, :, :before], new]
            kept = _with_room(mx.concatenate(parts, axis=2), room(total, self.window))
        return kept, kept[:, :, :total]


class PrefixCache:
    """The cache of a batch whose rows are padded on the left to one length."""

    def __init__(self, config: ModelConfig, left_padding: Sequence[int]) -> None:
        """left_padding: how many pads each row of the batch begins with, [0] for a single prompt."""
        if not left_padding or min(left_padding) < 0:
            raise ValueError(f"left_padding = {list(left_padding)!r} must give a count of 0 or more for every row")
        self.offset = 0  # positions encoded so far, padding included
        self.left_padding = mx.array(list(left_padding), dtype=mx.int32)  # [B]
        self.layers = [LayerCache(config.sliding_window if t == SLIDING else None) for t in config.layer_types]
        self._layer_types = config.layer_types
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

    def prefix(self) -> Prefix:
        """What a canvas that follows sees, its masks made: for all steps of a block."""
        layers: list[KeysValues | tuple[()]] = []
        seen: dict[LayerType, mx.array] = {}
        for layer_type, layer in zip(self._layer_types, self.layers, strict=True):
            if layer.keys is None or layer.values is None or not layer.held:
                layers.append(())
                continue
            layers.append((layer.keys, layer.values))
            if layer_type not in seen:
                first = self.first_held(layer.window)
                seen[layer_type] = prefix_mask(layer.keys.shape[2], layer.held, first, self.left_padding)
        return Prefix(layers, seen, mx.array(self.next_position))

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
            layer.restore(*held[index], offset - first_prefix_position(offset, layer.window))

    def bytes_at(self, offset: int, item_bytes: int) -> int:
        """What a row of this cache takes once it holds `offset` positions."""
        return sum(
            2 * heads * room(offset - first_prefix_position(offset, layer.window), layer.window) * head_dim * item_bytes
            for layer, (heads, head_dim) in zip(self.layers, self._head_shapes, strict=True)
        )

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())


def room(held: int, window: int | None) -> int:
    """How many positions the arrays have room for that hold so many.

    For less than a quarter more than they hold, or than 64, and for less than 8,192 more; lengths up to 262,144 have
    few shapes, about 60.
    """
    step = min(max(LEAST_ROOM, 2 ** max(held - 1, 0).bit_length() // 8), LARGEST_STEP)
    rounded = -(-held // step) * step
    return rounded if window is None else min(rounded, window - 1)


def _with_room(array: mx.array, wanted: int) -> mx.array:
    """[B, K, positions, S] with zeros behind it, up to `wanted` positions."""
    *outer, positions, size = array.shape
    if positions == wanted:
        return array
    return mx.concatenate([array, mx.zeros((*outer, wanted - positions, size), array.dtype)], axis=2)
