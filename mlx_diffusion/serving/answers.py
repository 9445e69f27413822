"""Answers as they come: the events of some jobs, read from the event loop while the engine's thread makes them.

Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Self

from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.jobs import Job, Outcome, Step, Wish, ends
from mlx_diffusion.serving.problems import RequestError


class Answers:
    """An asynchronous iterator of pairs, the index of a prompt and its next event; once closed, no work goes on.

    Raises, where it is made, OptionError, PromptError and RequestError for what is refused; and RequestError, while it
    is read, for what fails later.
    """

    def __init__(self, engine: EngineThread, wanted: Sequence[Wish], wants_drafts: bool = False) -> None:
        """wanted: one wish an answer."""
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()
        self._left = len(wanted)
        until = time.monotonic() + engine.limits.answer_seconds
        self._jobs = [
            Job(wish, wants_drafts, until, Delivery(self._loop, self._queue, index))
            for index, wish in enumerate(wanted)
        ]
        engine.submit(self._jobs)

    def __aiter__(self) -> AsyncIterator[tuple[int, Step]]:
        return self

    async def __anext__(self) -> tuple[int, Step]:
        if not self._left:
            raise StopAsyncIteration
        index, outcome = await self._queue.get()
        if isinstance(outcome, RequestError):
            raise outcome
        self._left -= ends(outcome)
        return index, outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.drop(self._jobs)


class Delivery:
    """Hands outcomes from the engine's thread to a queue of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[tuple[int, Outcome]], index: int) -> None:
        self._loop, self._queue, self._index = loop, queue, index

    def __call__(self, outcomes: Sequence[Outcome]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, tuple(outcomes))

    def _put(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._queue.put_nowait((self._index, outcome))
