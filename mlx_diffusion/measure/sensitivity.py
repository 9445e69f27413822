"""The loss of rounding matrices of a checkpoint, one or many at a time: measured at the logits of a probe.

Every change is carried through all layers above it, one layer of the checkpoint in memory at a time, with the states of
as many changes beside it as fit. Knows nothing of sizes or recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.measure.layerwise import load_ends, load_layer
from mlx_diffusion.measure.probe import WORST, Probe, State, divergences, make_probe
from mlx_diffusion.measure.rounding import relative_error, rounded
from mlx_diffusion.network.model import DiffusionGemma

STATES_BYTES = 2**29  # of the changes that are carried at a time

Tell = Callable[[float, str], None]
Losses = tuple[float, ...]  # nats a position, of each of `probe.KINDS`


@dataclass(frozen=True)
class Change:
    """Matrices in other formats, by their paths in the model."""

    formats: Mapping[str, QuantSpec]

    @property
    def first(self) -> int:
        """The first layer that knows of it."""
        return min(map(layer_of, self.formats), default=0)


def layer_of(path: str) -> int:
    """The layer of a matrix by its path; 0 for embeddings and what else stands before the first."""
    beginning, _, rest = path.partition("layers.")
    return int(rest.partition(".")[0]) if rest and not beginning else 0


@dataclass(frozen=True)
class LossMeter:
    """A checkpoint, what it is measured on, and its own logits there."""

    checkpoint: Checkpoint
    ends: DiffusionGemma
    probe: Probe
    right: list[mx.array] = field(repr=False)
    left_out: int = WORST  # per cent of positions, those that diverge most

    @classmethod
    def of(cls, checkpoint: Checkpoint, tell: Tell, texts: Sequence[str] = (), left_out: int = WORST) -> LossMeter:
        """On the probe's own texts or on others. `tell` is told the share that is done, and what is at work."""
        ends = load_ends(checkpoint)
        probe = make_probe(checkpoint, ends, lambda index: tell(0.0, f"canvases, layer {index}"), texts)
        state = probe.begin(ends)
        for index in range(checkpoint.config.num_hidden_layers):
            state = probe.step(load_layer(checkpoint, index), index, state)
        return cls(checkpoint, ends, probe, probe.logits(ends, state), left_out)

    def losses(self, changes: Sequence[Change], tell: Tell) -> list[Losses]:
        """The divergence of the logits from the checkpoint's own after each change, by kind."""
        found: dict[int, Losses] = {}
        order = sorted(range(len(changes)), key=lambda number: changes[number].first)
        own = self.probe.begin(self.ends)
        size = max(1, STATES_BYTES // sum(array.nbytes for array in own))
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        start = 0
        for number, batch in enumerate(batches):
            following = changes[batches[number + 1][0]].first if number + 1 < len(batches) else 0
            at_work = partial(_report, tell, number, len(batches), self.checkpoint.config.num_hidden_layers)
            states, own = self._carried({one: changes[one] for one in batch}, start, own, following, at_work)
            start = max(start, following)
            for one, state in states.items():
                with changed(self.ends, changes[one].formats):
                    found[one] = divergences(self.right, self.probe.logits(self.ends, state), self.left_out)
        return [found[number] for number in range(len(changes))]

    def _carried(
        self, batch: Mapping[int, Change], start: int, own: State, following: int, tell: Callable[[int], None]
    ) -> tuple[dict[int, State], State]:
        """What comes out of the last layer after each change, and what goes into layer `following` without any.

        `own` goes into layer `start` without any change.
        """
        states: dict[int, State] = {}
        last = max(following, *(change.first for change in batch.values()))
        kept = own
        for index in range(start, self.checkpoint.config.num_hidden_layers):
            tell(index)
            if index == following:
                kept = own
            single = load_layer(self.checkpoint, index)
            for one, change in batch.items():
                if change.first <= index:
                    if one not in states:
                        states[one] = self._begun(change) if index == 0 else own
                    with changed(single, change.formats):
                        states[one] = self.probe.step(single, index, states[one])
            if index < last:
                own = self.probe.step(single, index, own)
            del single
            mx.clear_cache()
        return states, kept

    def _begun(self, change: Change) -> State:
        with changed(self.ends, change.formats):
            return self.probe.begin(self.ends)

    def errors(self, formats: Mapping[str, Sequence[QuantSpec]]) -> dict[str, list[float]]:
        """The relative squared error of each matrix, by path, in each of its formats."""
        found = _errors(self.ends, formats)
        for index in sorted({layer_of(path) for path in formats.keys() - found.keys()}):
            found |= _errors(load_layer(self.checkpoint, index), formats)
            mx.clear_cache()
        return found


@contextmanager
def changed(module: nn.Module, formats: Mapping[str, QuantSpec]) -> Iterator[None]:
    """A module with those of the matrices that are in it rounded to their formats."""
    found = [(own, own.weight, formats[path]) for path, own in module.named_modules() if path in formats]
    for own, weight, spec in found:
        own.weight = rounded(weight, spec)
    try:
        yield
    finally:
        for own, weight, _ in found:
            own.weight = weight


def _report(tell: Tell, batch: int, batches: int, layers: int, index: int) -> None:
    tell((batch + index / layers) / batches, f"layer {index}")


def _errors(module: nn.Module, formats: Mapping[str, Sequence[QuantSpec]]) -> dict[str, list[float]]:
    return {
        path: [relative_error(own.weight, spec) for spec in formats[path]]
        for path, own in module.named_modules()
        if path in formats
    }
