"""Work spread over threads: on a CPU, MLX keeps one core busy a thread.

Knows nothing of what the work is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

import mlx.core as mx

from ..device import on_cpu

Job = TypeVar("Job")
Result = TypeVar("Result")


class Stopped(Exception):
    """Raised by work that has been told to stop."""


def default_workers() -> int:
    """One worker a core on a CPU; one alone for a GPU, which a single thread keeps busy."""
    if not on_cpu():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1


def spread(work: Callable[[Job, Event], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Results as they come, in no order. Work looks at its event now and then and raises `Stopped` when it is set.

    An error of the work ends all of it and is raised here.
    """
    stop = Event()
    if workers == 1:
        yield from (work(job, stop) for job in jobs)
        return

    waiting: SimpleQueue[Job] = SimpleQueue()
    finished: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()
    count = 0
    for count, job in enumerate(jobs, start=1):  # noqa: B007 (how many there were)
        waiting.put(job)

    def serve() -> None:
        try:
            while not stop.is_set():
                finished.put((work(waiting.get_nowait(), stop), None))
        except (Empty, Stopped):
            pass
        except BaseException as error:
            finished.put((None, error))
        finally:
            mx.clear_streams()  # a thread that ends with streams of its own would abort the process

    threads = [Thread(target=serve, name=f"worker {number}") for number in range(min(workers, count))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(count):
            result, error = finished.get()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
