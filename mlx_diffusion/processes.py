"""The bounds of foreign work in a process: none in a fork of one that has used MLX, none once the interpreter ends.

MLX computes in threads of its own, which a fork does not copy: whoever waits for them there waits for ever. And a
thread that is in the hands of MLX or of the tokenizers library while the interpreter is taken down aborts the process;
so does one that has only used MLX before: Python ends it when it wants to run on, and what MLX keeps for each thread
cannot be freed any more. A thread that has just been joined frees it still, and needs the interpreter for that. Knows
nothing of what is computed.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from weakref import WeakSet

from mlx_diffusion.errors import ForkError

LONGEST_WAIT = 60.0  # seconds at the end, for the passes of other threads
IDLE_SECONDS = 0.5  # in which a thread that does not move is taken to wait for something
LOOK_SECONDS = 0.002  # between two looks at where the threads are
TASKS = Path("/proc/self/task")  # Linux's, with a folder for each thread
LAST_SECONDS = 2.0 if TASKS.is_dir() else 0.1  # for threads that have ended; elsewhere nothing tells that they are gone

_used_by: int | None = None  # the process in which MLX has computed
_changed = threading.Condition()
_own = threading.local()  # in each thread: how deep it is in stretches within each other
_threads: WeakSet[threading.Thread] = WeakSet()  # those that have done foreign work
_numbers: set[int] = set()  # the system's numbers of them but the main one, also of those that have ended
_at_work = 0
_ending = False
_shut = threading.Lock()  # never opened
_shut.acquire()


def _forget_threads() -> None:
    """In a fork there is only the thread that forked, and whatever another one held stays held."""
    global _changed, _at_work
    _changed, _at_work = threading.Condition(), 0
    _threads.clear()
    _numbers.clear()


os.register_at_fork(after_in_child=_forget_threads)


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
    depth = getattr(_own, "depth", 0)
    if not depth:
        _begin()
    _own.depth = depth + 1
    try:
        yield
    finally:
        _own.depth = depth
        if not depth:
            _leave()


def _begin() -> None:
    global _at_work
    thread = threading.current_thread()
    with _changed:
        stopped = _ending and thread is not threading.main_thread()
        if not stopped:
            _at_work += 1
            _threads.add(thread)
            if thread is not threading.main_thread():
                _numbers.add(threading.get_native_id())
    if stopped:
        _stand_still()


def _leave() -> None:
    global _at_work
    with _changed:
        _at_work -= 1
        _changed.notify_all()
    if _ending and threading.current_thread() is not threading.main_thread():
        _stand_still()


def _stand_still() -> None:
    """Wait for ever; `_stands_still` knows a thread that does by this frame, so nothing else may be done in it."""
    _shut.acquire()


def _stands_still(frame: FrameType) -> bool:
    """True for a thread that is within the lock: on that line, only to wait for it makes Python change threads."""
    return frame.f_code is _stand_still.__code__ and frame.f_lineno > frame.f_code.co_firstlineno


@atexit.register
def _end() -> None:
    """Let no further stretch begin, and wait until those that run have ended and their threads stand still.

    Daemon threads are not joined, and one that is at work again soon would want to run on while the interpreter is
    taken down. One that waits for something else, for all that is known, is left where it is.
    """
    global _ending
    with _changed:
        _ending = True
        _changed.wait_for(lambda: not _at_work, LONGEST_WAIT)
    places: dict[int | None, tuple[float, int, int]] = {}  # since when a thread is where it is
    began = time.monotonic()
    while _moving(places) and time.monotonic() < began + LONGEST_WAIT:
        time.sleep(LOOK_SECONDS)
    began = time.monotonic()
    while _leaving() and time.monotonic() < began + LAST_SECONDS:
        time.sleep(LOOK_SECONDS)


def _leaving() -> bool:
    """True while a thread that has done foreign work and has ended, for Python, may still be freeing what MLX keeps."""
    ended = _numbers - {thread.native_id for thread in threading.enumerate()}
    return any((TASKS / str(number)).exists() for number in ended) if TASKS.is_dir() else bool(ended)


def _moving(places: dict[int | None, tuple[float, int, int]]) -> bool:
    """True while a thread that has done foreign work is neither standing still nor waiting for something."""
    now, frames, moving = time.monotonic(), sys._current_frames(), False
    for thread in set(_threads) - {threading.main_thread()}:
        frame = frames.get(thread.ident or 0)
        if frame is not None and not _stands_still(frame):
            place = id(frame), frame.f_lasti
            if places.get(thread.ident, (now,))[1:] != place:
                places[thread.ident] = now, *place
            moving |= now < places[thread.ident][0] + IDLE_SECONDS
    return moving
