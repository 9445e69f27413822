"""The server as one ASGI application: its routes behind the door, and its errors as replies.

Knows nothing of sockets and signals, or of what a route does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.serving.anthropic_routes import AnthropicRoutes
from mlx_diffusion.serving.decision_routes import DecisionRoutes
from mlx_diffusion.serving.edit_routes import EditRoutes
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.fim_routes import FimRoutes
from mlx_diffusion.serving.guard import Entry, Guard, refusal
from mlx_diffusion.serving.metrics import Metrics
from mlx_diffusion.serving.ollama_routes import OllamaRoutes
from mlx_diffusion.serving.openai_routes import OpenAIRoutes
from mlx_diffusion.serving.openapi import description
from mlx_diffusion.serving.page_routes import PageRoutes
from mlx_diffusion.serving.problems import RequestError, at_fault, bad
from mlx_diffusion.serving.service import Service

GONE = 499  # for the log: the caller has left
INTERFACES = (PageRoutes, OpenAIRoutes, AnthropicRoutes, OllamaRoutes, FimRoutes, EditRoutes, DecisionRoutes)
NO_ROUTE = "nothing is served by this method at this path; docs/serving.md lists what is"


def build_app(service: Service, entry: Entry, log: Callable[[str], None]) -> ASGIApp:
    """The whole server as ASGI has it; it starts and ends the engine's thread."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.engine.stop)

    async def health(request: Request) -> Response:
        alive = service.engine.alive
        return JSONResponse({"status": "ok" if alive else "ending"}, 200 if alive else 503)

    async def show_metrics(request: Request) -> Response:
        return PlainTextResponse(metrics.text(gauges(service.engine)), media_type="text/plain; version=0.0.4")

    async def describe(request: Request) -> Response:
        return JSONResponse(description())

    routes = [Route("/health", health), Route("/metrics", show_metrics), Route("/openapi.json", describe)]
    for interface in INTERFACES:
        routes += interface(service).routes
    metrics = Metrics(tuple(route.path for route in routes))
    handlers = {
        RequestError: lambda request, error: refusal(request.url.path, error),
        OptionError: lambda request, error: refusal(request.url.path, bad(str(error))),
        PromptError: lambda request, error: refusal(request.url.path, bad(str(error))),
        HTTPException: no_route,
        ClientDisconnect: lambda request, error: Response(status_code=GONE),
        Exception: lambda request, error: refusal(request.url.path, at_fault()),
    }
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Guard(app, entry, metrics, log)


def no_route(request: Request, error: HTTPException) -> Response:
    """The reply where nothing is served; it has the methods that there are at the path, if there are any."""
    reply = refusal(request.url.path, RequestError(error.status_code, NO_ROUTE))
    reply.headers.update(error.headers or {})
    return reply


def gauges(engine: EngineThread) -> dict[str, tuple[str, float]]:
    """What the engine is at, as names with their help and value."""
    return {
        "running_requests": ("answers that are written now", engine.running),
        "waiting_requests": ("answers that wait for their turn", engine.waiting),
        "passes": ("passes of the network since the start", engine.passes),
        "prefix_bytes": ("what is kept of encoded prompts", engine.prefixes.nbytes if engine.prefixes else 0),
    }
