"""The end of a server: requests under way have a time to finish, and those that do not are told so in their own form.

Uvicorn would cancel them with a traceback. Knows nothing of what is asked or answered.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

LEFT = 10  # seconds for the last replies to be sent, after which uvicorn cancels them


class GracefulServer(uvicorn.Server):
    """A server that calls `end`, in another thread, when the time for requests under way is over; all of them are to
    end of it."""

    def __init__(self, config: uvicorn.Config, grace_seconds: int, end: Callable[[], None]) -> None:
        config.timeout_graceful_shutdown = grace_seconds + LEFT
        super().__init__(config)
        self._grace_seconds, self._end = grace_seconds, end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self._grace_seconds, loop.run_in_executor, None, self._end)
        try:
            await super().shutdown(sockets)
        finally:
            alarm.cancel()
