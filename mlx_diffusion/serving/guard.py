"""The door of the server: who may come in, what a request is called, and one line of log for each.

A page of another origin cannot reach the server through its user's browser: neither by its own name, since a page's
origin must be that of the server, nor by a name that it lets point here, since names must be known. Knows nothing of
what is behind the door.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_diffusion.serving.error_forms import error_form
from mlx_diffusion.serving.metrics import Metrics, Spent
from mlx_diffusion.serving.problems import RequestError
from mlx_diffusion.visible_text import notice

LOCAL = ("localhost",)
PAGE = "/"
OPEN = ("/health", PAGE)  # to those without the key, as are the page's files
FILES = "/page/"
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d+)?")
HINTS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}  # headers by status
GOOD_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """Who may come in: whoever has the key, if there is one, and calls the server by an address or a known name."""

    key: str | None = None
    names: tuple[str, ...] = ()  # in lower case

    def check(self, path: str, headers: Headers) -> None:
        """Raises RequestError for a request that may not come in."""
        host = headers.get("host", "")
        name = HOST.fullmatch(host.lower())
        if name is None or not (name["name"] in (*LOCAL, *self.names) or _is_address(name["name"].strip("[]"))):
            raise RequestError(403, f"the server is not known as {host!r}; start it with --allow-host for that name")
        origins = headers.getlist("origin")
        fetched_by = headers.getlist("sec-fetch-site")  # browsers say which site's page a request comes from
        is_visit = path == PAGE and headers.get("sec-fetch-mode") == "navigate"
        if any(origin.partition("://")[2].lower() != host.lower() for origin in origins) or (
            not is_visit and not {"none", "same-origin"}.issuperset(fetched_by)
        ):
            raise RequestError(403, "pages of another origin may not use this server")
        if self.key is not None and not (path in OPEN or path.startswith(FILES)) and not self._has_key(headers):
            raise RequestError(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY")

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offered = given if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(offered.encode(), (self.key or "").encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """The outermost layer of the server, as ASGI has it."""

    def __init__(self, app: ASGIApp, entry: Entry, metrics: Metrics, log: Callable[[str], None]) -> None:
        self._app, self._entry, self._metrics, self._log = app, entry, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        spent = Spent(given if GOOD_ID.fullmatch(given) else uuid.uuid4().hex)
        scope["spent"] = spent
        began, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = spent.identity
            await send(message)

        try:
            try:
                self._entry.check(scope["path"], headers)
                await self._app(scope, receive, answer)
            except RequestError as error:
                await refusal(scope["path"], error)(scope, receive, answer)
            except Exception as error:
                self._log(f"id={spent.identity} {type(error).__name__}: {error}")
                if status != 500:  # in the middle of an answer, which then breaks off
                    raise
        finally:
            seconds = time.monotonic() - began
            self._metrics.count(scope["path"], status, seconds, spent)
            self._log(
                f"id={spent.identity} {scope['method']} {notice(scope['path'])} {status or 'gone'} {seconds:.3f}s "
                f"prompt={spent.prompt_tokens} cached={spent.cached_tokens} "
                f"generated={spent.generated_tokens} steps={spent.denoising_steps}{spent.note}"
            )


def refusal(path: str, error: RequestError) -> JSONResponse:
    """The reply that says why there is no answer, in the form of the interface that the path belongs to."""
    return JSONResponse(error_form(path, error), error.status, HINTS.get(error.status))
