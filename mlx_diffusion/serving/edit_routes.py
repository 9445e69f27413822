"""Mercury's routes for edits of code: the next edit, /v1/edit/completions, and a given one, /v1/apply/completions.

Knows nothing of how an answer is made.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.edit_requests import ApplyRequest, EditRequest, TaggedRequest
from mlx_diffusion.serving.exchange import AnswerStream, read_body, unless_gone
from mlx_diffusion.serving.metrics import Spent
from mlx_diffusion.serving.openai_replies import Chunk, Reply
from mlx_diffusion.serving.openai_requests import ChatRequest
from mlx_diffusion.serving.openai_routes import events
from mlx_diffusion.serving.service import Service, Wanted

Read = tuple[ChatRequest, Wanted, list[str]]  # what is asked for, as a chat and for the engine, and what is ignored
KINDS: dict[str, tuple[type[TaggedRequest], str]] = {
    "/v1/edit/completions": (EditRequest, "edit.completion"),
    "/v1/apply/completions": (ApplyRequest, "apply.completion"),
}


class EditRoutes:
    """What a service edits."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.routes = [Route(path, self.edit, methods=["POST"]) for path in KINDS]

    def read_edit(self, raw: bytes) -> Read:
        """The body of a next edit. Raises OptionError, PromptError and RequestError."""
        return self._read(EditRequest.read(raw))

    def read_apply(self, raw: bytes) -> Read:
        """The body of a given edit. Raises OptionError, PromptError and RequestError."""
        return self._read(ApplyRequest.read(raw))

    def _read(self, body: TaggedRequest) -> Read:
        mode = body.mode or self._service.defaults.mode or "reference"
        chat = body.as_chat(mode)
        return chat, self._service.wanted(chat), body.ignored(mode)

    async def edit(self, request: Request) -> Response:
        service, (kind, name) = self._service, KINDS[request.url.path]
        raw = await read_body(request, service.engine.limits)
        body, wanted, ignored = await service.prepare(self.read_edit if kind is EditRequest else self.read_apply, raw)
        answers = Answers(service.engine, wanted, body.wants_drafts)
        reply = Reply(service.name, True, answers, wanted, service.turns, service.engine.tokenizer)
        reply.replaces = bool(body.diffusing)
        spent: Spent = request.scope["spent"]
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return AnswerStream(answers, events(reply, with_usage, spent), service.stream_seconds)
        with answers:
            whole = await unless_gone(request, reply.whole())
        spent.add(reply.stats)
        return JSONResponse({**whole, "object": name, "usage": _usage(whole["usage"]), "ignored": ignored})


def _usage(usage: Chunk) -> Chunk:
    """The tokens by Mercury's names, too."""
    return {**usage, "reasoning_tokens": 0, "cached_input_tokens": usage["prompt_tokens_details"]["cached_tokens"]}
