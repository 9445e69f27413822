"""Examinees in processes of their own, and work spread over them.

On a CPU, MLX keeps about one core busy in each process: on the bundled checkpoint, two threads of one process used 1.4
cores, two processes used both. Parent and worker exchange lines of JSON; a worker ends with its parent. Knows nothing
of what is asked.

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
from mlx_diffusion.typed_json import from_json

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


class Answerer(Protocol):
    """An examinee, in this process or in one of its own."""

    def answer(self, request: PromptBatch) -> list[Answer]: ...

    def first_step(self, prompt: Sequence[int], seed: int) -> tuple[str, str]: ...


def default_workers(found: Checkpoint) -> int:
    """One on a GPU, which it keeps busy; on a CPU one a core, as far as memory holds a copy of the model for each."""
    if not on_cpu():
        return 1
    copies = copies_here(found)
    return 1 if copies is None else max(1, min(cores(), copies))


@contextmanager
def examinees_of(folder: Path, count: int) -> Iterator[list[Answerer]]:
    """`count` examinees of a checkpoint: a single one in this process, several in processes that end with this one.

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
    work: Callable[[Answerer, JobT], ResultT], jobs: Sequence[JobT], examinees: Sequence[Answerer]
) -> Generator[ResultT, None, None]:
    """Results as they are finished; each examinee does one job at a time. Errors of the work are raised here."""
    if len(examinees) == 1:
        yield from (work(examinees[0], job) for job in jobs)
        return
    idle: SimpleQueue[Answerer] = SimpleQueue()
    for examinee in examinees:
        idle.put(examinee)

    def do(job: JobT) -> ResultT:
        examinee = idle.get()
        try:
            return work(examinee, job)
        finally:
            idle.put(examinee)

    pool = ThreadPoolExecutor(len(examinees))  # threads that wait for the processes
    try:
        for future in as_completed([pool.submit(do, job) for job in jobs]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Worker:
    """The parent's side of an examinee in a process of its own, which ends at the end of a `with`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            start_new_session=True,  # the parent answers an interrupt, not the worker
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self, request: PromptBatch) -> list[Answer]:
        self.send("answer", asdict(request))
        return [from_json(Answer, answer) for answer in self.receive()]

    def first_step(self, prompt: Sequence[int], seed: int) -> tuple[str, str]:
        self.send("first_step", {"prompt": prompt, "seed": seed})
        draw, argmax = self.receive()
        return draw, argmax

    def send(self, what: str, arguments: Mapping[str, Any]) -> None:
        """Ask for a call of one of the methods of `_Server`."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the worker has ended, and `receive` says so
            print(json.dumps([what, arguments]), file=self.process.stdin, flush=True)

    def receive(self) -> Any:
        """The result of the call. Raises its error, or `EvaluationError` where the worker itself has ended."""
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
        self.examinee = Examinee.of(Path(folder))

    def answer(self, **request: Any) -> list[dict[str, Any]]:
        return [asdict(answer) for answer in self.examinee.answer(PromptBatch(**request))]

    def first_step(self, prompt: list[int], seed: int) -> tuple[str, str]:
        return self.examinee.first_step(prompt, seed)


def serve() -> None:
    """Answer one line after another; errors that a user can meet are sent back as answers."""
    replies, sys.stdout = sys.stdout, sys.stderr  # so that nothing that a library prints is taken for a reply
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the parent has ended, and nobody needs the results

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
