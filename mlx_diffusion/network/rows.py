"""A row's share in a pass of the network: what it hands in, and what it gets back.

Knows nothing of layers or of who asks.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from mlx_diffusion.network.attention import Projected
from mlx_diffusion.network.cache import KeysValues, Prefix, PrefixCache
from mlx_diffusion.network.head import Survey
from mlx_diffusion.network.sampling import columns, handicaps
from mlx_diffusion.network.traces import Run, rounded


class Passage(NamedTuple):
    """Tokens that follow what a row's cache holds."""

    tokens: mx.array  # int32 [P]
    cache: PrefixCache
    looked_at: int | None = None  # how many of the last positions somebody looks at; None: all
    canvas: mx.array | None = None  # int32 [W], tokens of a canvas behind them that takes its first step beside them


class View(NamedTuple):
    """What a denoising step forwards of one row's canvas of L positions, and what it sees beside it."""

    tokens: mx.array  # int32 [A]
    soft: mx.array  # [A, D], the soft signal of the step before; zeros where there was none
    prefix: Prefix
    positions: mx.array | None = None  # int32 [A] within the canvas, those that are forwarded; None: all of it
    kept: tuple[KeysValues, ...] = ()  # a layer each, [1, K, L, S] of the whole canvas, where positions of it rest
    asked: mx.array | None = None  # int32 [F] among the forwarded, those whose logits are wanted; None: of all

    @property
    def length(self) -> int:
        """L."""
        return self.kept[0][0].shape[2] if self.positions is not None else self.tokens.shape[0]

    @property
    def surveyed(self) -> int:
        """F, how many positions the logits are wanted of."""
        return (self.tokens if self.asked is None else self.asked).shape[0]

    def handicaps(self, source: mx.array, first: int, vocab_size: int, run: Run) -> mx.array:
        """The columns from `first` of minus the Gumbel noise of the surveyed positions, float32 [F, columns].

        Of a key only as much is drawn as the surveyed positions need, where some of the forwarded are not surveyed.
        """
        if not source.size:
            return mx.zeros((self.surveyed, min(columns(vocab_size), vocab_size - first)))
        if self.asked is not None and source.dtype == mx.uint32:
            return handicaps(source, first, (rounded(self.surveyed), vocab_size), run)[: self.surveyed]
        whole = handicaps(source, first, (self.length, vocab_size), run)
        whole = whole if self.positions is None else whole[self.positions]
        return whole if self.asked is None else whole[self.asked]

    def placed(self, width: int) -> mx.array | None:
        """Where in the canvas the forwarded positions stand, int32 [width], the last one repeated; None: in order."""
        if self.positions is None or self.positions.shape[0] == width:
            return self.positions
        missing = width - self.positions.shape[0]
        return mx.concatenate([self.positions, mx.broadcast_to(self.positions[-1:], (missing,))])

    def trimmed(self, canvas: KeysValues) -> KeysValues:
        """Keys and values of the canvas's own positions alone."""
        if canvas[0].shape[2] == self.length:
            return canvas
        keys, values = (array[:, :, : self.length] for array in canvas)
        return keys, values

    def canvas_keys(self, new: Projected, old: KeysValues | None) -> tuple[KeysValues, mx.array | None]:
        """A layer's keys and values of the whole canvas, [1, K, places, S], and which places are positions of it.

        new: what was projected now, of the forwarded positions; those that rest keep what they had, `old`.
        """
        count = self.tokens.shape[0]
        if self.positions is not None:
            assert old is not None
            keys, values = (
                _put(array, self.positions, now[:, :, :count])
                for array, now in zip(old, (new.keys, new.values), strict=True)
            )
            return (keys, values), None
        places = new.keys.shape[2]
        return (new.keys, new.values), None if places == count else (mx.arange(places) < count)[None]


class Seen(NamedTuple):
    """What a step says of the positions that it surveys, and the keys and values of their whole canvas."""

    survey: Survey  # [F] each, of the positions that were asked for
    kept: tuple[KeysValues, ...]  # a layer each, [1, K, L, S]
    hidden: mx.array | None = None  # [F, D], hidden states after the final norm; None: nobody needs them


def _put(array: mx.array, positions: mx.array, new: mx.array) -> mx.array:
    """[1, K, L, S] with new ones, [1, K, A, S], at int32 [A] positions."""
    index = mx.broadcast_to(positions[:, None], new.shape)
    return mx.put_along_axis(array, index, new, axis=2)
