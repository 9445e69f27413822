"""Connections of clients, which must say in time what they ask for: those that do not are closed and crowd out nobody.

Uvicorn bounds how long a connection rests between two requests, and neither how long the head of a request may take
nor how many connections have sent none. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # in which the head of a request must have come
MOST_WITHOUT = 64  # connections that have sent none; of more, the oldest is closed


class PromptConnection(H11Protocol):
    """A connection as uvicorn has it, closed where the head of a request does not come."""

    waits_since: float | None = None  # for a head, as a reading of time.monotonic
    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._follow()
        others = (one for one in self.connections if isinstance(one, PromptConnection))
        waiting = [(one.waits_since, one) for one in others if one.waits_since is not None]
        if len(waiting) > MOST_WITHOUT:
            _, oldest = min(waiting, key=lambda pair: pair[0])
            oldest.rest()
            oldest.transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        self.rest()
        super().connection_lost(exc)

    def _follow(self) -> None:
        """Wait for the head of a request, unless one is there whose answer is not complete."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.rest()
        elif self._alarm is None:
            self.waits_since = time.monotonic()
            self._alarm = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def rest(self) -> None:
        """Wait for no head."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.waits_since = None
