"""OpenAI's routes: its models, chats and completions.

Knows nothing of how an answer is made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.conversations import check_conversation
from mlx_diffusion.serving.error_forms import error_form
from mlx_diffusion.serving.exchange import AnswerStream, event, read_body, unless_gone
from mlx_diffusion.serving.gaps import gaps_of
from mlx_diffusion.serving.metrics import Spent
from mlx_diffusion.serving.openai_replies import Reply
from mlx_diffusion.serving.openai_requests import ChatRequest, CompletionRequest
from mlx_diffusion.serving.problems import RequestError
from mlx_diffusion.serving.service import Service, Wanted

OWNER = "mlx-diffusion"
VERSION = "anthropic-version"  # a header that Anthropic's clients send


class OpenAIRoutes:
    """What a service answers in OpenAI's form."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.routes = [
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        card = self._card(request)
        return JSONResponse({"object": "list", "data": [card], "has_more": False, "first_id": card["id"],
                             "last_id": card["id"]})  # fmt: skip

    async def model(self, request: Request) -> Response:
        self._service.check_name(request.path_params["name"])
        return JSONResponse(self._card(request))

    def _card(self, request: Request) -> dict[str, Any]:
        """The model in Anthropic's form for its clients; for others in OpenAI's, with the fields of Mistral's."""
        name, since = self._service.name, self._service.since
        if VERSION in request.headers:
            return {"type": "model", "id": name, "display_name": name, "created_at": since.isoformat()}
        return {
            "id": name,
            "object": "model",
            "created": int(since.timestamp()),
            "owned_by": OWNER,
            "type": "base",
            "capabilities": {"completion_chat": True, "function_calling": True, "completion_fim": True,
                             "fine_tuning": False, "vision": False, "classification": False},
            "max_context_length": self._service.context,
        }  # fmt: skip

    async def chat(self, request: Request) -> Response:
        body = await read_body(request, self._service.engine.limits)
        return await self._reply(request, *await self._service.prepare(self.read_chat, body))

    async def completions(self, request: Request) -> Response:
        body = await read_body(request, self._service.engine.limits)
        return await self._reply(request, *await self._service.prepare(self.read_completion, body))

    def read_chat(self, raw: bytes) -> tuple[ChatRequest, Wanted]:
        """A chat's body, and what is to be answered. Raises OptionError, PromptError and RequestError."""
        body = ChatRequest.read(raw)
        check_conversation(body.messages, by_id=True)
        return body, self._service.wanted(body)

    def read_completion(self, raw: bytes) -> tuple[CompletionRequest, Wanted]:
        """A completion's body, and what is to be answered. Raises OptionError, PromptError and RequestError."""
        body = CompletionRequest.read(raw)
        if not body.suffix:
            return body, self._service.wanted(body)
        return body, gaps_of(self._service, body)

    async def _reply(self, request: Request, body: ChatRequest | CompletionRequest, wanted: Wanted) -> Response:
        """The answers of a request, streamed or whole."""
        service = self._service
        answers = Answers(service.engine, wanted, body.wants_drafts)
        is_chat = isinstance(body, ChatRequest)
        prompts = 1 if isinstance(body, ChatRequest) else len(body.prompts)
        reply = Reply(service.name, is_chat, answers, wanted, service.turns, service.engine.tokenizer, prompts)
        if isinstance(body, CompletionRequest) and body.echo:
            reply.echoes = service.echoes(body, len(wanted))
        reply.replaces = isinstance(body, ChatRequest) and bool(body.diffusing)
        spent: Spent = request.scope["spent"]
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return AnswerStream(answers, events(reply, with_usage, spent), service.stream_seconds)
        with answers:
            whole = await unless_gone(request, reply.whole())
        spent.add(reply.stats)
        return JSONResponse(whole)


async def events(reply: Reply, with_usage: bool, spent: Spent) -> AsyncIterator[str]:
    """The chunks of a reply as server-sent events; one that fails on its way ends with an error."""
    spent.note = " left"
    try:
        async for chunk in reply.chunks(with_usage):
            yield event(chunk)
        yield "data: [DONE]\n\n"
        spent.note = ""
    except RequestError as error:
        spent.note = f" failed={error.status}"
        yield event(error_form("/v1", error))
    finally:
        spent.add(reply.stats)
