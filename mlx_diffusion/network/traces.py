"""Traces of pure functions, shared by modules of one structure: a layer of each kind is traced, not every layer.

`mx.compile` keeps a trace for each combination of shapes that a function meets. Here a module's arrays are arguments
like any other, so that thirty layers of one kind have one trace for each size of what goes through them, and `rounded`
keeps those sizes few. Knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

Run = Callable[..., Any]  # (function, module or None, arguments) -> what the function gives, traced or not

LEAST, SHARES = 16, 4  # sizes are multiples of a quarter of the next smaller power of two, or of LEAST / 2


def plainly(function: Callable[..., Any], module: nn.Module | None, *arguments: Any) -> Any:
    """Run a function of a module and arrays as it is: the `Run` of who wants no traces."""
    return function(*arguments) if module is None else function(module, *arguments)


class Traces:
    """The traces of one model; they go when it goes."""

    def __init__(self) -> None:
        self.count = 0  # of traces that were made, for those who watch that they stay few
        self._compiled: dict[tuple[Callable[..., Any], str], Callable[..., Any]] = {}

    def __call__(self, function: Callable[..., Any], module: nn.Module | None, *arguments: Any) -> Any:
        """function(module, *arguments), or function(*arguments) without a module: through a trace, to the same end.

        The function must be pure, and equal functions must do the same. Named tuples come as plain ones.
        """
        key = (function, "" if module is None else _structure(module))
        if key not in self._compiled:
            self._compiled[key] = mx.compile(self._body(function, module))
        return self._compiled[key]({} if module is None else module.parameters(), *arguments)

    def _body(self, function: Callable[..., Any], stencil: nn.Module | None) -> Callable[..., Any]:
        def run(parameters: dict[str, Any], *arguments: Any) -> Any:
            self.count += 1
            if stencil is None:
                return function(*arguments)
            own = stencil.parameters()
            stencil.update(parameters)
            try:
                return function(stencil, *arguments)
            finally:
                stencil.update(own)

        return run


def _structure(module: nn.Module) -> str:
    """What two modules must share to share a trace: the paths, shapes, types and formats of their arrays."""
    found: str | None = getattr(module, "_structure_of_arrays", None)
    if found is None:
        arrays = [
            (path, array.shape, str(array.dtype)) for path, array in dict(tree_flatten(module.parameters())).items()
        ]
        formats = [(path, m.group_size, m.bits, m.mode) for path, m in module.named_modules() if hasattr(m, "bits")]
        found = repr((type(module).__name__, arrays, sorted(formats)))
        module._structure_of_arrays = found
    return found


def rounded(count: int) -> int:
    """The next of a few sizes: 8, 16, 24, … 64, 80, 96, 112, 128, 160, … at most a quarter more than `count`."""
    step = max(LEAST // 2, 2 ** (max(count - 1, 1).bit_length() - 1) // SHARES)
    return -(-count // step) * step
