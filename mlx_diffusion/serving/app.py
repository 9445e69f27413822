"""The server's routes: the paths, and the way from a request to the answer.

Knows nothing of sockets and signals, or of how a text is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.exchange import AnswerStream, events, read_body, unless_gone
from mlx_diffusion.serving.guard import Entry, Guard, refusal
from mlx_diffusion.serving.metrics import Metrics, Spent
from mlx_diffusion.serving.openai_replies import Reply
from mlx_diffusion.serving.openai_requests import ChatRequest, CompletionRequest, TextOptions
from mlx_diffusion.serving.problems import RequestError, at_fault, bad
from mlx_diffusion.serving.turns import Turns, make_ready_for_calls

OWNER = "mlx-diffusion"
GONE = 499  # for the log: the caller has left
NO_ROUTE = "nothing is served here; see /v1/models, /v1/chat/completions, /v1/completions, /health and /metrics"
Wanted = list[tuple[list[int], Settings]]  # token ids and settings, one pair a choice
COUNTED_ROUTES = ("/v1/models", "/v1/chat/completions", "/v1/completions", "/health", "/metrics")


@dataclass
class Service:
    """One model and what it is asked over HTTP."""

    engine: EngineThread
    name: str  # of the model, as requests have it
    defaults: GenerationConfig
    metrics: Metrics = field(default_factory=lambda: Metrics(COUNTED_ROUTES))
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)  # requests are made ready one after another

    def __post_init__(self) -> None:
        self.turns = Turns(self.engine.model, self.engine.tokenizer)

    async def health(self, request: Request) -> Response:
        alive = self.engine.alive
        return JSONResponse({"status": "ok" if alive else "ending"}, 200 if alive else 503)

    async def show_metrics(self, request: Request) -> Response:
        engine = self.engine
        kept = engine.prefixes.nbytes if engine.prefixes else 0
        now = {
            "running_requests": ("answers that are written now", float(engine.running)),
            "waiting_requests": ("answers that wait for their turn", float(engine.waiting)),
            "passes": ("passes of the network since the start", float(engine.passes)),
            "prefix_bytes": (
                "what is kept of encoded prompts",
                float(kept),
            ),
        }
        return PlainTextResponse(self.metrics.text(now), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self.card()]})

    async def model(self, request: Request) -> Response:
        self.check_name(request.path_params["name"])
        return JSONResponse(self.card())

    def card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": OWNER}

    def check_name(self, name: str | None) -> None:
        if name not in (None, self.name):
            raise RequestError(404, f"the model {name!r} is not served; this server has {self.name!r}",
                               code="model_not_found", param="model")  # fmt: skip

    async def chat(self, request: Request) -> Response:
        raw = await read_body(request, self.engine.limits)
        async with self.preparing:
            body, wanted = await run_in_threadpool(self.wanted_chat, raw)
        return await self.reply(request, body, wanted, 1)

    async def completions(self, request: Request) -> Response:
        raw = await read_body(request, self.engine.limits)
        async with self.preparing:
            body, wanted = await run_in_threadpool(self.wanted_completions, raw)
        return await self.reply(request, body, wanted, len(body.prompts))

    def wanted_chat(self, raw: bytes) -> tuple[ChatRequest, Wanted]:
        """A chat's body, and what is to be answered. Raises OptionError, PromptError and RequestError."""
        body = ChatRequest.read(raw)
        self.check_name(body.model)
        if not body.messages:
            raise bad("messages is empty; write one for the model to answer", "messages")
        if body.offered_tools:
            make_ready_for_calls()
        settings = self.settings(body)
        tokens = self.encode(body.messages, body.offered_tools, body.thinks)
        return body, [(tokens, one) for one in settings]

    def wanted_completions(self, raw: bytes) -> tuple[CompletionRequest, Wanted]:
        """A completion's body, and what is to be answered. Raises OptionError, PromptError and RequestError."""
        body, most = CompletionRequest.read(raw), self.engine.limits.max_choices
        self.check_name(body.model)
        settings = self.settings(body)
        if len(body.prompts) * len(settings) > most:
            raise bad(f"prompts times n is {len(body.prompts) * len(settings)}; this server gives at most {most}", "n")
        encoded = [self.encode(prompt) for prompt in body.prompts]
        return body, [(tokens, one) for tokens in encoded for one in settings]

    def encode(self, prompt: Any, *template: Any) -> list[int]:
        """A prompt's token ids; `template` is tools and thinking, for messages. Raises PromptError."""
        return self.engine.tokenizer.encode_prompt(prompt, self.engine.model.config.vocab_size, *template)

    def settings(self, body: TextOptions) -> list[Settings]:
        """The settings of each choice: the first has the seed, each further one the next. Raises OptionError."""
        count, limits = body.n or 1, self.engine.limits
        if count > limits.max_choices:
            raise bad(f"n is {count}; this server gives at most {limits.max_choices}", "n")
        first = self.engine.model.generation_defaults.resolve(body.config(self.defaults, limits))
        return [replace(first, seed=first.seed + index) for index in range(count)]

    async def reply(self, request: Request, body: TextOptions, wanted: Wanted, prompts: int) -> Response:
        """The answers of a request, streamed or whole."""
        limits = self.engine.limits
        answers = Answers(self.engine, wanted, bool(body.x_diffusion_drafts))
        is_chat = isinstance(body, ChatRequest)
        reply = Reply(self.name, is_chat, answers, wanted, self.turns, self.engine.tokenizer, prompts)
        spent: Spent = request.scope["spent"]
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return AnswerStream(answers, events(reply, with_usage, spent), limits.answer_seconds + limits.grace_seconds)
        with answers:
            whole = await unless_gone(request, reply.whole())
        spent.add(reply.stats)
        return JSONResponse(whole)


def build_app(service: Service, entry: Entry, log: Callable[[str], None]) -> ASGIApp:
    """The whole server as ASGI has it; it starts and ends the engine's thread."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.engine.stop)

    handlers = {
        RequestError: lambda request, error: refusal(error),
        OptionError: lambda request, error: refusal(bad(str(error))),
        PromptError: lambda request, error: refusal(bad(str(error))),
        HTTPException: lambda request, error: refusal(RequestError(error.status_code, NO_ROUTE)),
        ClientDisconnect: lambda request, error: Response(status_code=GONE),
        Exception: lambda request, error: refusal(at_fault()),
    }
    app = Starlette(routes=routes(service), lifespan=lifespan, exception_handlers=handlers)
    return Guard(app, entry, service.metrics, log)


def routes(service: Service) -> list[Route]:
    """What is served where."""
    return [
        Route("/health", service.health),
        Route("/metrics", service.show_metrics),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.model),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.completions, methods=["POST"]),
    ]
