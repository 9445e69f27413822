"""The largest values that go into a model's matrices and come out of them: whether a narrow float type holds them.

Knows nothing of which values are run through the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_diffusion.network.layers import SHRINK

FLOAT16_MAX = 65_504.0
MATRICES = "proj"  # how the names of all of them end
SHRUNK = "down_proj"  # in float16 these take a share of a GeGLU and give a share of its product


@dataclass(frozen=True)
class Magnitude:
    """The largest |x| that went into one matrix (of all experts, if it is theirs) and that came out of it."""

    path: str  # as in "layers.3.mlp.down_proj"
    taken: float
    given: float

    @property
    def projection(self) -> str:
        """The path within its layer."""
        return ".".join(self.path.split(".")[2 if self.path.startswith("layers.") else 0 :])

    @property
    def layer(self) -> str:
        """The number of its layer; "–" for what belongs to none."""
        return self.path.split(".")[1] if self.path.startswith("layers.") else "–"

    @property
    def share_of_float16(self) -> float:
        """Of the largest float16; more than 1 overflows there. Of a GeGLU's products float16 holds a share alone."""
        most = max(self.taken, self.given) * (SHRINK if self.path.endswith(SHRUNK) else 1.0)
        return most / FLOAT16_MAX


@dataclass
class Magnitudes:
    """What has been seen so far, by path."""

    found: dict[str, Magnitude] = field(default_factory=dict)

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Watch the matrices of a module, under the paths that they have in it, until the context ends."""
        modules = dict(module.named_modules())
        matrices = {path: one for path, one in modules.items() if path.endswith(MATRICES)}
        seen: dict[str, list[mx.array]] = {path: [] for path in matrices}
        for path, one in matrices.items():
            parent, _, name = path.rpartition(".")
            modules[parent][name] = Watched(one, seen[path])
        try:
            yield
        finally:
            for path, one in matrices.items():
                parent, _, name = path.rpartition(".")
                modules[parent][name] = one
        for path, arrays in seen.items():
            if arrays:
                self._take(path, *np.array(mx.stack(arrays).max(axis=0)).tolist())

    def _take(self, path: str, taken: float, given: float) -> None:
        before = self.found.get(path, Magnitude(path, 0.0, 0.0))
        self.found[path] = Magnitude(path, max(before.taken, taken), max(before.given, given))

    def all(self) -> list[Magnitude]:
        """Those of every matrix that something went through."""
        return list(self.found.values())


def largest(magnitudes: Iterable[Magnitude]) -> list[Magnitude]:
    """Of each projection that of the layer where it is nearest to the end of float16."""
    worst: dict[str, Magnitude] = {}
    for one in magnitudes:
        kept = worst.setdefault(one.projection, one)
        if one.share_of_float16 > kept.share_of_float16:
            worst[one.projection] = one
    return list(worst.values())


class Watched(nn.Module):
    """A matrix that keeps the largest |x| of what goes in and what comes out, float32 [2] a call; lazy."""

    def __init__(self, module: nn.Module, seen: list[mx.array]) -> None:
        super().__init__()
        self.module = module
        self._seen = seen

    def __call__(self, x: mx.array, *arguments: Any, **options: Any) -> mx.array:
        given = self.module(x, *arguments, **options)
        self._seen.append(mx.stack([mx.abs(array).max().astype(mx.float32) for array in (x, given)]))
        return given

    @property
    def input_dims(self) -> int:
        """As the matrices of experts have it."""
        return self.module.input_dims
