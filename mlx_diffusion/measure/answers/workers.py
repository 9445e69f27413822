"""Engines in processes of their own, and work spread over them: on a CPU, MLX keeps one core busy a process.

Two threads of one process kept 1.4 cores busy on the bundled checkpoint, where two processes kept both. Parent and
worker pass lines of JSON; a worker ends with its parent. Knows nothing of what is asked.

    python -m mlx_diffusion.measure.answers.workers      the worker's side
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

import mlx.core as mx

from mlx_diffusion import errors
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.device import cores, on_cpu
from mlx_diffusion.errors import DiffusionError, EvaluationError
from mlx_diffusion.fit.opening import copies_here
from mlx_diffusion.measure.answers.engine import Answer, Examinee, PromptBatch

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


class Answerer(Protocol):
    """An engine, here or in a process of its own."""

    def answer(self, request: PromptBatch) -> list[Answer]: ...

    def first_step(self, prompt: Sequence[int], seed: int) -> tuple[str, str]: ...


def default_workers(found: Checkpoint) -> int:
    """One a core on a CPU, as far as memory holds a copy of the model for each; one alone on a GPU: it is busy then."""
    if not on_cpu():
        return 1
    copies = copies_here(found)
    return 1 if copies is None else max(1, min(cores(), copies))


@contextmanager
def engines_of(folder: Path, count: int) -> Iterator[list[Answerer]]:
    """So many engines of a checkpoint: one in this process, several in processes of their own, which end with it.

    Raises `CheckpointError`.
    """
    if count == 1:
        yield [Examinee.of(folder)]
        return
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker()) for _ in range(count)]
        for worker in workers:
            worker.send("load", {"folder": str(folder), "device": "cpu" if on_cpu() else "gpu"})
        for worker in workers:
            worker.receive()
        yield [*workers]


def spread(
    work: Callable[[Answerer, JobT], ResultT], jobs: Sequence[JobT], engines: Sequence[Answerer]
) -> Generator[ResultT, None, None]:
    """Results as they come, in no order; each engine does one job at a time. An error of the work is raised here."""
    if len(engines) == 1:
        yield from (work(engines[0], job) for job in jobs)
        return
    idle: SimpleQueue[Answerer] = SimpleQueue()
    for engine in engines:
        idle.put(engine)

    def do(job: JobT) -> ResultT:
        engine = idle.get()
        try:
            return work(engine, job)
        finally:
            idle.put(engine)

    pool = ThreadPoolExecutor(len(engines))  # threads that wait for what processes do
    try:
        for future in as_completed([pool.submit(do, job) for job in jobs]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Worker:
    """The parent's side of an engine in a process of its own, which ends at the end of a `with`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            start_new_session=True,  # an interrupt is the parent's to answer
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self, request: PromptBatch) -> list[Answer]:
        self.send("answer", asdict(request))
        return [Answer(**answer) for answer in self.receive()]

    def first_step(self, prompt: Sequence[int], seed: int) -> tuple[str, str]:
        self.send("first_step", {"prompt": prompt, "seed": seed})
        draw, argmax = self.receive()
        return draw, argmax

    def send(self, what: str, arguments: Mapping[str, Any]) -> None:
        """Ask for something, by the name of a method of `_Server`."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which `receive` will say
            print(json.dumps([what, arguments]), file=self.process.stdin, flush=True)

    def receive(self) -> Any:
        """What became of it. Raises the error that it ended in, `EvaluationError` if that was the worker's own end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise EvaluationError(f"a worker ended with exit code {code}; if memory is short, give --workers 1")
        reply = json.loads(line)
        if "error" in reply:
            raise getattr(errors, reply["error"])(reply["message"])
        return reply["result"]


class _Server:
    """The worker's side: JSON in, JSON out."""

    def load(self, folder: str, device: str) -> None:
        mx.set_default_device(mx.Device(getattr(mx, device)))
        self.engine = Examinee.of(Path(folder))

    def answer(self, **request: Any) -> list[dict[str, Any]]:
        return [asdict(answer) for answer in self.engine.answer(PromptBatch(**request))]

    def first_step(self, prompt: list[int], seed: int) -> tuple[str, str]:
        return self.engine.first_step(prompt, seed)


def serve() -> None:
    """Answer one line after another; errors that a user can meet are answers, too."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no reply
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the parent is gone, and with it all need of what is at work

    Thread(target=read, daemon=True).start()
    server = _Server()
    while True:
        what, arguments = json.loads(lines.get())
        try:
            reply = {"result": getattr(server, what)(**arguments)}
        except DiffusionError as error:
            reply = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    serve()
