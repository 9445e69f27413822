"""The bounds of foreign work in a process: none in a fork of one that has used MLX, none once the interpreter ends.

MLX computes in threads of its own, which a fork does not copy: whoever waits for them there waits for ever. And a
thread that is in the hands of MLX or of the tokenizers library while the interpreter is taken down aborts the process.
Knows nothing of what is computed.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlx_diffusion.errors import ForkError

LONGEST_WAIT = 60.0  # seconds at the end, for the passes of other threads

_used_by: int | None = None  # the process in which MLX has computed
_changed = threading.Condition()
_depth = threading.local()  # of stretches within each other, in each thread
_at_work = 0
_ending = False


def check_process() -> None:
    """Refuse to compute in a fork of a process in which MLX has computed. Raises ForkError."""
    if _used_by not in (None, os.getpid()):
        raise ForkError(
            "this process was forked from one that had used MLX, whose threads are not in it; start processes by "
            'spawn instead, as in multiprocessing.get_context("spawn")'
        )


@contextmanager
def computing() -> Iterator[None]:
    """For a stretch of MLX's work, see `foreign_work`. Raises ForkError."""
    global _used_by
    check_process()
    _used_by = os.getpid()
    with foreign_work():
        yield


@contextmanager
def foreign_work() -> Iterator[None]:
    """For a stretch of a library's work that is waited for when the interpreter ends.

    A thread other than the main one that would begin or leave a stretch after that stands still: the process is about
    to go.
    """
    global _at_work
    outermost = not getattr(_depth, "value", 0)
    if outermost:
        with _changed:
            _stand_still_at_the_end()
            _at_work += 1
    _depth.value = getattr(_depth, "value", 0) + 1
    try:
        yield
    finally:
        _depth.value -= 1
        if outermost:
            with _changed:
                _at_work -= 1
                _changed.notify_all()
                _stand_still_at_the_end()


def _stand_still_at_the_end() -> None:
    """Wait for ever, `_changed` given away meanwhile, where the process is about to go."""
    while _ending and threading.current_thread() is not threading.main_thread():
        _changed.wait()


@atexit.register
def _end() -> None:
    """Let no further stretch begin, and wait for those that run: daemon threads are not joined."""
    global _ending
    with _changed:
        _ending = True
        _changed.wait_for(lambda: not _at_work, LONGEST_WAIT)
