"""Routes for what belongs between two texts: llama.cpp's /infill, and /v1/fim/completions of Mistral and Mercury.

Knows nothing of how a gap is filled.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_diffusion.events import Finish, Segment, Stats
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.error_forms import error_form
from mlx_diffusion.serving.exchange import AnswerStream, event, read_body, unless_gone
from mlx_diffusion.serving.fim_requests import FimRequest, InfillRequest
from mlx_diffusion.serving.gaps import gap_wish
from mlx_diffusion.serving.jobs import Wish
from mlx_diffusion.serving.metrics import Spent
from mlx_diffusion.serving.problems import RequestError
from mlx_diffusion.serving.service import Service

Fields = dict[str, Any]


class FimRoutes:
    """What a service fills in."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.routes = [
            Route("/infill", self.infill, methods=["POST"]),
            Route("/v1/fim/completions", self.fim, methods=["POST"]),
        ]

    async def infill(self, request: Request) -> Response:
        raw = await read_body(request, self._service.engine.limits)
        return await self._reply(request, *await self._service.prepare(self.read_infill, raw))

    async def fim(self, request: Request) -> Response:
        raw = await read_body(request, self._service.engine.limits)
        return await self._reply(request, *await self._service.prepare(self.read_fim, raw))

    def read_infill(self, raw: bytes) -> tuple[InfillRequest, Wish | None, LlamaAnswer]:
        """The body, its gap, and the form of the answer. Raises OptionError, PromptError and RequestError.

        There is no gap where an editor asks for no tokens, which it does to have its text encoded ahead.
        """
        body = InfillRequest.read(raw)
        self._service.check_name(body.model)
        answer = LlamaAnswer(self._service.name, body.ignored, body.response_fields or ())
        if body.n_predict == 0:
            return body, None, answer
        config = body.config(self._service.canvas_mode(None))
        return body, gap_wish(self._service, body.prefix, body.suffix, config, body.context), answer

    def read_fim(self, raw: bytes) -> tuple[FimRequest, Wish, MistralAnswer]:
        """The body, its gap, and the form of the answer. Raises OptionError, PromptError and RequestError."""
        body = FimRequest.read(raw)
        self._service.check_name(body.model)
        gap = gap_wish(self._service, body.prompt, body.suffix or "", body.config(self._service.canvas_mode(None)))
        return body, gap, MistralAnswer(self._service.name, body.ignored)

    async def _reply(
        self,
        request: Request,
        body: InfillRequest | FimRequest,
        gap: Wish | None,
        answer: LlamaAnswer | MistralAnswer,
    ) -> Response:
        service, spent = self._service, request.scope["spent"]
        if gap is None:
            return JSONResponse(answer.whole("", None))
        answers = Answers(service.engine, [gap])
        if body.stream:
            return AnswerStream(answers, streamed(answer, answers, spent), service.stream_seconds)
        with answers:
            text, stats = await unless_gone(request, filled(answers, spent))
        return JSONResponse(answer.whole(text, stats))


async def filled(answers: Answers, spent: Spent) -> tuple[str, Stats]:
    """The text of a gap, and what it has cost."""
    text = ""
    async for _, found in answers:
        if isinstance(found, Segment):
            text += found.text
        elif isinstance(found, Finish):
            spent.add([found.stats])
            stats = found.stats
    return text, stats


async def streamed(answer: LlamaAnswer | MistralAnswer, answers: Answers, spent: Spent) -> AsyncIterator[str]:
    """The text as a stream has it, canvas by canvas."""
    spent.note = " left"
    try:
        async for _, found in answers:
            if isinstance(found, Segment) and found.text:
                yield event(answer.part(found.text))
            elif isinstance(found, Finish):
                spent.add([found.stats])
                yield event(answer.end(found.stats))
        yield answer.last
        spent.note = ""
    except RequestError as error:
        spent.note = f" failed={error.status}"
        yield event(error_form("/v1", error))


class LlamaAnswer:
    """A filled gap in the form of llama.cpp's server."""

    last = ""

    def __init__(self, model: str, ignored: Sequence[str], fields: Sequence[str]) -> None:
        self._model, self._ignored, self._fields = model, ignored, fields

    def whole(self, text: str, stats: Stats | None) -> Fields:
        reply = {"content": text, "stop": True, "model": self._model, "ignored": self._ignored, **_figures(stats)}
        return {path: found for path in self._fields if (found := _at(reply, path)) is not None} or reply

    def part(self, text: str) -> Fields:
        return {"content": text, "stop": False}

    def end(self, stats: Stats) -> Fields:
        return self.whole("", stats)


class MistralAnswer:
    """A filled gap in the form of Mistral's and Mercury's servers, which have the text at different places."""

    last = "data: [DONE]\n\n"

    def __init__(self, model: str, ignored: Sequence[str]) -> None:
        self._head: Fields = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._ignored = ignored

    def whole(self, text: str, stats: Stats | None) -> Fields:
        choice = {"index": 0, "text": text, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {**self._head, "object": "chat.completion", "choices": [choice], "ignored": self._ignored,
                "usage": _usage(stats)}  # fmt: skip

    def part(self, text: str, reason: str | None = None) -> Fields:
        delta = {"role": "assistant", "content": text}
        choice = {"index": 0, "text": text, "delta": delta, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def end(self, stats: Stats) -> Fields:
        return {**self.part("", "stop"), "ignored": self._ignored, "usage": _usage(stats)}


def _figures(stats: Stats | None) -> Fields:
    """Counts and times by llama.cpp's names; without stats, of no work."""
    count, written, cached = (stats.prompt_tokens, stats.generated_tokens, stats.cached_tokens) if stats else (0, 0, 0)
    times = [1000 * seconds for seconds in ((stats.prompt_seconds, stats.generation_seconds) if stats else (0, 0))]
    timings: Fields = {}
    for name, tokens, milliseconds in (("prompt", count - cached, times[0]), ("predicted", written, times[1])):
        timings |= {
            f"{name}_n": tokens,
            f"{name}_ms": milliseconds,
            f"{name}_per_token_ms": milliseconds / tokens if tokens else 0.0,
            f"{name}_per_second": 1000 * tokens / milliseconds if milliseconds else 0.0,
        }
    return {"tokens_evaluated": count, "tokens_predicted": written, "tokens_cached": cached, "truncated": False,
            "timings": timings}  # fmt: skip


def _at(reply: Fields, path: str) -> Any:
    """What stands at a path like `timings/prompt_n`; None where there is nothing."""
    found: Any = reply
    for name in path.split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _usage(stats: Stats | None) -> Fields:
    prompt, written = (stats.prompt_tokens, stats.generated_tokens) if stats else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
