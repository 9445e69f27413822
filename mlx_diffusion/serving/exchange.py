"""Bodies in and answers out: what is read of a request, a stream of events, and an end where the caller has gone.

Knows nothing of what is asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from email.message import Message
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mlx_diffusion.display import count_of
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.limits import Limits
from mlx_diffusion.serving.problems import RequestError

JSON = "application/json"
EVENTS = "text/event-stream"
ResultT = TypeVar("ResultT")


async def read_body(request: Request, limits: Limits) -> bytes:
    """The request's body. Raises RequestError for one that is too long or too slow, or says that it is no JSON."""
    _check_type(request.headers.get("content-type"))
    too_long = RequestError(413, f"the body has more than {count_of(limits.max_bytes, 'byte')}; send less")
    if int(request.headers.get("content-length", "0")) > limits.max_bytes:
        raise too_long
    parts, length = list[bytes](), 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                length += len(part)
                if length > limits.max_bytes:
                    raise too_long
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, f"the body did not come within {count_of(limits.body_seconds, 'second')}") from None
    return b"".join(parts)


def _check_type(said: str | None) -> None:
    """Raises RequestError for a type of the body that is not JSON's in UTF-8; a body without one may be JSON."""
    if said is None:
        return
    message = Message()
    message["content-type"] = said
    kind, charset = message.get_content_type(), message.get_content_charset("utf-8")
    if kind != JSON or charset not in ("utf-8", "us-ascii"):
        raise RequestError(415, f"the body is said to be {said[:80]!r}; send {JSON}, in UTF-8")


class AnswerStream(StreamingResponse):
    """An answer that is sent in parts, with whose end, whatever it is, the work on the answers ends.

    A caller who does not read them is waited for no longer than `seconds`; then the stream breaks off.
    """

    def __init__(self, answers: Answers, content: AsyncIterator[str], seconds: float, media_type: str = EVENTS) -> None:
        super().__init__(content, headers={"Cache-Control": "no-store"}, media_type=media_type)
        self._answers, self._seconds = answers, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._answers, suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)


def event(data: Any) -> str:
    """Data as a server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of some work, which ends once the caller has gone. Raises ClientDisconnect."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
