"""The prefix cache of one row: the keys and values of everything encoded so far, one entry a layer.

Full layers keep all positions. Sliding layers keep those that a later pass can still see, and some more where the last
ones are to be taken back. Arrays have room for more than they hold: new positions are written in place, and the arrays
have few shapes. MLX's arrays do not change once they are read by somebody else, so a fork shares them and copies
nothing. Knows nothing of attention or of what the tokens were.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import NamedTuple

import mlx.core as mx

from mlx_diffusion.checkpoint.config import SLIDING, LayerType, ModelConfig
from mlx_diffusion.display import count_of
from mlx_diffusion.network.masks import first_seen

KeysValues = tuple[mx.array, mx.array]
Held = tuple[mx.array, mx.array, int]  # keys and values, [1, K, room, S] each, and how many of their positions count

SeenKeys = tuple[KeysValues | tuple[()], mx.array | None]  # () where nothing is seen; which of them are, None: all

LEAST_CAPACITY, LARGEST_STEP = 64, 8192


class Prefix(NamedTuple):
    """What a canvas sees of a cache: arrays alone, so that a trace can take them."""

    layers: list[KeysValues | tuple[()]]  # a layer's keys and values, each [1, K, positions, S]; () where it has none
    seen: dict[LayerType, mx.array | None]  # which of the positions are real, bool [1, positions]; None: all
    position: mx.array  # int32 [], where the canvas begins


class LayerCache:
    """Keys and values of one layer, each [1, K, room, S]; the first `held` are those of the last positions encoded."""

    def __init__(self, window: int | None, spare: int) -> None:
        """window: how many positions a query sees, None for all. spare: how many can be taken back exactly."""
        self.window = window
        self.most = None if window is None else window - 1 + spare
        self.held = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def append(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Take the new positions in; returns all that they may see: what was held, and themselves."""
        before, total = self.held, self.held + keys.shape[2]
        self.held = total if self.most is None else min(total, self.most)
        self.keys, seen_keys = self._taken_in(self.keys, keys, before)
        self.values, seen_values = self._taken_in(self.values, values, before)
        return seen_keys, seen_values

    def seen_by_canvas(self, few_shapes: bool) -> SeenKeys:
        """What a canvas that follows sees: see `PrefixCache.prefix`."""
        own = slice(first_seen(self.held, self.window), self.held)
        if self.keys is None or self.values is None or own.start == own.stop:
            return (), None
        if not few_shapes or own.stop - own.start == (self.window or 0) - 1:  # a full window has one shape
            return (self.keys[:, :, own], self.values[:, :, own]), None
        index = mx.arange(self.keys.shape[2])[None]
        return (self.keys, self.values), (index >= own.start) & (index < own.stop)

    def restore(self, keys: mx.array, values: mx.array, held: int) -> None:
        """Hold the first `held` of these positions instead; of more than this cache may hold, the last."""
        self.held = held if self.most is None else min(held, self.most)
        first, wanted = held - self.held, capacity(self.held, self.most)
        self.keys, self.values = (_widened(array[:, :, first:][:, :, :wanted], wanted) for array in (keys, values))

    def _taken_in(self, old: mx.array | None, new: mx.array, before: int) -> KeysValues:
        """The array to keep, and all that the new positions may see."""
        total, first = before + new.shape[2], first_seen(before, self.window)
        if total > self.held:  # the oldest are dropped
            seen = new if old is None else mx.concatenate([old[:, :, first:before], new], axis=2)
            keep = self.held - new.shape[2]  # of those that were held
            if old is not None and keep > 0:
                return mx.concatenate([old[:, :, before - keep : before], new], axis=2), seen
            return mx.contiguous(new[:, :, -keep:]), seen  # a slice alone would keep the whole array alive behind it
        if old is not None and total <= old.shape[2]:
            kept = mx.slice_update(old, new, mx.array([before]), axes=(2,))  # in place where nobody else holds `old`
        else:
            parts = [new] if old is None else [old[:, :, :before], new]
            kept = _widened(mx.concatenate(parts, axis=2), capacity(total, self.most))
        return kept, kept[:, :, first:total]


class PrefixCache:
    """What one row has encoded."""

    def __init__(self, config: ModelConfig, spare: int) -> None:
        """spare: how many positions can be taken back exactly, which sliding layers hold beyond what is seen."""
        self.offset = 0  # positions encoded so far: where the next one stands
        windows = [config.sliding_window if t == SLIDING else None for t in config.layer_types]
        self.layers = [LayerCache(window, spare) for window in windows]
        self._layer_types = config.layer_types
        self._head_shapes = [config.head_shape(layer_type) for layer_type in config.layer_types]

    def prefix(self, few_shapes: bool = False) -> Prefix:
        """What a canvas that follows sees, for all steps of a block.

        With `few_shapes` the arrays are those of the cache, whose room comes in few sizes, and a mask says which
        positions are real; without, they are exactly the positions that are seen, and there is no mask.
        """
        layers: list[KeysValues | tuple[()]] = []
        seen: dict[LayerType, mx.array | None] = {}
        for layer_type, layer in zip(self._layer_types, self.layers, strict=True):
            keys_values, mask = layer.seen_by_canvas(few_shapes)
            layers.append(keys_values)
            seen.setdefault(layer_type, mask)
        return Prefix(layers, seen, mx.array(self.offset))

    def advance(self, count: int) -> None:
        """Count the positions that every layer has just taken in."""
        self.offset += count

    def rewind(self, count: int) -> None:
        """Take the last `count` positions back, as if they had never been encoded.

        Exact for as many as the cache has spare; raises ValueError where a sliding layer no longer holds what was seen
        then.
        """
        left = self.offset - count
        short = [layer for layer in self.layers if layer.held - count < left - first_seen(left, layer.window)]
        if count < 0 or left < 0 or short:
            raise ValueError(
                f"{count} of {count_of(self.offset, 'position')} cannot be taken back: too few are still held"
            )
        self.offset = left
        for layer in self.layers:
            layer.held -= count

    def fork(self) -> PrefixCache:
        """A second cache with the same content, which goes its own way; nothing is copied."""
        other = copy(self)
        other.layers = [copy(layer) for layer in self.layers]
        return other

    def arrays(self) -> list[mx.array]:
        """All keys and values, for mx.eval."""
        return [a for layer in self.layers for a in (layer.keys, layer.values) if a is not None]

    def split(self) -> tuple[dict[int, Held], dict[int, Held]]:
        """What full and what sliding layers hold, by layer. Nothing is copied."""
        full: dict[int, Held] = {}
        sliding: dict[int, Held] = {}
        for index, layer in enumerate(self.layers):
            if layer.keys is not None and layer.values is not None:
                (sliding if layer.window else full)[index] = layer.keys, layer.values, layer.held
        return full, sliding

    def restore(self, offset: int, held: Mapping[int, Held]) -> None:
        """Take up an encoding of `offset` positions again, from what every layer held then."""
        self.offset = offset
        for index, layer in enumerate(self.layers):
            layer.restore(*held[index])

    def bytes_at(self, offset: int, item_bytes: int) -> int:
        """What this cache takes once it holds `offset` positions."""
        return sum(
            2 * heads * size * item_bytes * capacity(min(offset, layer.most or offset), layer.most)
            for layer, (heads, size) in zip(self.layers, self._head_shapes, strict=True)
        )

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())


def capacity(held: int, most: int | None) -> int:
    """How many positions the arrays have room for that hold so many, `most` at most.

    For less than a quarter more than they hold, or than 64, and for less than 8,192 more; lengths up to 262,144 have
    few shapes, about 60.
    """
    step = min(max(LEAST_CAPACITY, 2 ** max(held - 1, 0).bit_length() // 8), LARGEST_STEP)
    rounded = -(-held // step) * step
    return rounded if most is None else min(rounded, most)


def _widened(array: mx.array, wanted: int) -> mx.array:
    """[1, K, positions, S] with zeros behind it, up to `wanted` positions."""
    *outer, positions, size = array.shape
    if positions == wanted:
        return array
    return mx.concatenate([array, mx.zeros((*outer, wanted - positions, size), array.dtype)], axis=2)
