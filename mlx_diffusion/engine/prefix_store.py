"""Prefixes that have been encoded, kept in memory: a conversation's next turn encodes only what is new.

A kept text has the keys and values of its full layers once, and points at which its sliding layers can be taken up
again: each holds what the layers can see there, and a canvas more. A prompt that begins like a kept text goes on from
the last position they share that lies at such a point, or a canvas before one. Arrays are shared with the caches that
come and go, never copied. Knows nothing of text, turns, denoising or who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mlx_diffusion.display import count_of
from mlx_diffusion.engine.prefix_files import SavedText, fingerprint, read_prefixes, write_prefixes
from mlx_diffusion.errors import OptionError
from mlx_diffusion.network.cache import Held, PrefixCache
from mlx_diffusion.network.masks import first_seen
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.processes import computing

MOST_POINTS = 8  # of one kept text; at full size a point of the real checkpoint has 210 MB in bf16


@dataclass
class _Kept:
    """One text: the tokens, full layers' keys and values of all of them, and sliding layers' at a few points."""

    tokens: np.ndarray  # int32 [P]
    full: dict[int, Held]  # by layer
    points: dict[int, dict[int, Held]]  # positions encoded -> layer -> what it held then

    @property
    def nbytes(self) -> int:
        held = [self.full, *self.points.values()]
        return sum(keys.nbytes + values.nbytes for layers in held for keys, values, _ in layers.values())

    def shared(self, tokens: np.ndarray) -> int:
        """How many tokens both begin with."""
        count = min(len(tokens), len(self.tokens))
        different = np.flatnonzero(tokens[:count] != self.tokens[:count])
        return int(different[0]) if different.size else count

    def resumable(self, tokens: np.ndarray, window: int) -> tuple[int, int]:
        """Where the shared beginning can be gone on from, and the point from which that is reached; (0, 0): nowhere."""
        shared = self.shared(tokens)
        best = max((point for point in self.points if point <= shared), default=0)
        for point, layers in self.points.items():
            oldest = point - min((held for _, _, held in layers.values()), default=point)
            if point > shared > best and oldest <= first_seen(shared, window):
                return shared, point
        return best, best


class PrefixStore:
    """Encoded prefixes of one model, up to a budget of bytes; the least recently used go first.

    Pass it as `prefixes=` to `generate` and `stream_generate`; `Stats.cached_tokens` says what it saved.
    """

    def __init__(self, model: DiffusionGemma, budget_bytes: int) -> None:
        """Raises OptionError for a budget that is not positive."""
        if budget_bytes < 1:
            raise OptionError(f"budget_bytes is {budget_bytes}; it must be 1 or more")
        self.model = model
        self.budget_bytes = budget_bytes
        self.changes = 0  # texts that were taken in so far
        self._kept: list[_Kept] = []  # the least recently used first

    @cached_property
    def identity(self) -> str:
        """The fingerprint of the model, which must stay as it is: all weights are read for it, once."""
        return fingerprint(self.model)

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept)

    def __len__(self) -> int:
        """How many texts are kept."""
        return len(self._kept)

    def check_room(self, tokens: int) -> None:
        """Raise OptionError when a prefix of so many tokens alone would pass the budget."""
        needed = self.model.make_cache().bytes_at(tokens, self.model.dtype.size)
        if needed > self.budget_bytes:
            raise OptionError(
                f"the prefix store has a budget of {count_of(self.budget_bytes, 'byte')} and a prefix of "
                f"{count_of(tokens, 'token')} takes "
                f"{needed:,}; raise budget_bytes or go without the store"
            )

    def find(self, tokens: Sequence[int]) -> PrefixCache:
        """A cache that holds the longest kept beginning of `tokens`, ready to be extended; empty if none is kept."""
        wanted = np.array(tokens, np.int32)
        window = self.model.config.sliding_window
        best = max(self._kept, key=lambda kept: kept.resumable(wanted, window), default=None)
        start, point = (0, 0) if best is None else best.resumable(wanted, window)
        cache = self.model.make_cache()
        if best is None or not start:
            return cache
        self._kept = [*(kept for kept in self._kept if kept is not best), best]
        full = {layer: (keys, values, point) for layer, (keys, values, _) in best.full.items()}
        cache.restore(point, {**full, **best.points[point]})
        cache.rewind(point - start)
        return cache

    def keep(self, tokens: Sequence[int], cache: PrefixCache) -> None:
        """Keep what `cache` holds, the encoding of exactly `tokens`; its arrays must have been evaluated."""
        if len(tokens) != cache.offset:
            raise ValueError(f"{count_of(len(tokens), 'token')} for a cache of {count_of(cache.offset, 'position')}")
        text = np.array(tokens, np.int32)
        full, sliding = cache.split()
        points = {cache.offset: sliding}
        self._take_in(text, full, points)
        self._make_room()

    def _take_in(self, text: np.ndarray, full: dict[int, Held], points: dict[int, dict[int, Held]]) -> None:
        """Keep a text in place of those that it goes on from, unless all of it is kept already."""
        # A text that this one goes on from is the same text, longer.
        for kept in self._kept:
            if kept.shared(text) == len(kept.tokens):
                points = {**kept.points, **points}
        self._kept = [kept for kept in self._kept if kept.shared(text) < len(kept.tokens)]
        if any(kept.shared(text) == len(text) and points.keys() <= kept.points.keys() for kept in self._kept):
            return
        self._kept.append(_Kept(text, full, _thinned(points)))
        self.changes += 1

    def _make_room(self) -> None:
        """Throw away texts, then points of the last one, then that too, until the budget holds."""
        while self.nbytes > self.budget_bytes and len(self._kept) > 1:
            self._kept.pop(0)
        while self.nbytes > self.budget_bytes and self._kept:
            points = self._kept[0].points
            points.pop(min(points))
            if not points:
                self._kept.clear()

    @computing()
    def save(self, path: str | Path) -> None:
        """Write all that is kept to a safetensors file, whole or not at all, for the user's eyes alone."""
        write_prefixes(
            Path(path), [SavedText(kept.tokens, kept.full, kept.points) for kept in self._kept], self.identity
        )

    @computing()
    def load(self, path: str | Path) -> None:
        """Take in what `save` wrote. Raises CheckpointError for a file of another model or recipe, or a damaged one."""
        for tokens, full, points in read_prefixes(Path(path), self.model, self.identity):
            self._take_in(tokens, full, points)
        self._make_room()


def _thinned(points: dict[int, dict[int, Held]]) -> dict[int, dict[int, Held]]:
    """At most MOST_POINTS of them, dense towards the end: most prompts share all but their last turn."""
    kept = sorted(points)
    while len(kept) > MOST_POINTS:
        gaps = [(after - before) / (kept[-1] - before) for before, after in zip([0, *kept], kept[1:], strict=False)]
        kept.pop(gaps.index(min(gaps)))
    return {point: points[point] for point in kept}
