"""The moments between two passes of work that takes several before it has anything to show.

Whoever runs such work may use them: to do something else meanwhile, or to end the work by an exception. Knows nothing
of what is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_between = ContextVar[Callable[[], None] | None]("_between", default=None)


@contextmanager
def pausing(between: Callable[[], None]) -> Iterator[None]:
    """For the time of some work: `between` is called ahead of each of its passes."""
    token = _between.set(between)
    try:
        yield
    finally:
        _between.reset(token)


def pause() -> None:
    """Called by work ahead of each of its passes."""
    between = _between.get()
    if between is not None:
        between()
