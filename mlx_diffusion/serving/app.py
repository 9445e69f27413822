"""The server's routes: the paths, and the way from a request to the answer.

Knows nothing of sockets and signals, or of how a text is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
from mlx_diffusion.serving.turns import Turns

OWNER = "mlx-diffusion"
GONE = 499  # for the log: the caller has left
NO_ROUTE = "nothing is served here; see /v1/models, /v1/chat/completions, /v1/completions, /health and /metrics"
COUNTED_ROUTES = ("/v1/models", "/v1/chat/completions", "/v1/completions", "/health", "/metrics")


@dataclass
class Service:
    """One model and what it is asked over HTTP."""

    engine: EngineThread
    name: str  # of the model, as requests have it
    defaults: GenerationConfig
    metrics: Metrics = field(default_factory=lambda: Metrics(COUNTED_ROUTES))
    encoding: asyncio.Lock = field(default_factory=asyncio.Lock)  # prompts are encoded one after another

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
        body = ChatRequest.read(await read_body(request, self.engine.limits))
        self.check_name(body.model)
        settings = self.settings(body)
        tokens = await self.encode(body.messages, body)
        return await self.reply(request, body, [(tokens, one) for one in settings], 1)

    async def completions(self, request: Request) -> Response:
        body = CompletionRequest.read(await read_body(request, self.engine.limits))
        self.check_name(body.model)
        settings = self.settings(body)
        if len(body.prompts) * len(settings) > self.engine.limits.max_choices:
            raise bad(f"{len(body.prompts)} prompts are sent; with n they may be {self.engine.limits.max_choices}", "n")
        prompts = [await self.encode(prompt, body) for prompt in body.prompts]
        return await self.reply(request, body, [(tokens, one) for tokens in prompts for one in settings], len(prompts))

    def settings(self, body: TextOptions) -> list[Settings]:
        """The settings of each choice: the first has the seed, each further one the next. Raises OptionError."""
        count, limits = body.n or 1, self.engine.limits
        if count > limits.max_choices:
            raise bad(f"n is {count}; this server gives at most {limits.max_choices}", "n")
        config = body.config(self.defaults, limits)
        first = self.engine.model.generation_defaults.resolve(config)
        seeds = range(first.seed, first.seed + count)
        return [self.engine.model.generation_defaults.resolve(config.override({"seed": seed})) for seed in seeds]

    async def encode(self, prompt: Any, body: TextOptions) -> list[int]:
        """A prompt's token ids, made in another thread. Raises PromptError."""
        tokenizer, vocab_size = self.engine.tokenizer, self.engine.model.config.vocab_size
        if isinstance(body, ChatRequest):
            if not prompt:
                raise bad("messages is empty; write one for the model to answer", "messages")
            extra = (body.offered_tools, body.thinks)
        else:
            extra = (None, None)
        async with self.encoding:
            return await run_in_threadpool(tokenizer.encode_prompt, prompt, vocab_size, *extra)

    async def reply(
        self, request: Request, body: TextOptions, wanted: Sequence[tuple[list[int], Settings]], prompts: int
    ) -> Response:
        """The answers of a request, streamed or whole."""
        answers = Answers(self.engine, wanted, bool(body.x_diffusion_drafts))
        is_chat = isinstance(body, ChatRequest)
        reply = Reply(self.name, is_chat, answers, wanted, self.turns, self.engine.tokenizer, prompts)
        spent: Spent = request.scope["spent"]
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return AnswerStream(answers, events(reply, with_usage, spent))
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
