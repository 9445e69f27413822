"""Ollama's routes: its requests, its lines of JSON, streamed or as one reply.

Knows nothing of how an answer is made.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_diffusion import __version__
from mlx_diffusion.events import Finish, Segment, Stats
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.conversations import check_conversation
from mlx_diffusion.serving.error_forms import OLLAMA, error_form
from mlx_diffusion.serving.exchange import AnswerStream, read_body, unless_gone
from mlx_diffusion.serving.gaps import gaps_of
from mlx_diffusion.serving.metrics import Spent
from mlx_diffusion.serving.ollama_requests import OllamaChat, OllamaGenerate, OllamaRequest, OllamaShow
from mlx_diffusion.serving.problems import RequestError
from mlx_diffusion.serving.service import Service, Wanted
from mlx_diffusion.serving.turns import Piece, Thought, ToolCall

NANOSECONDS = 1_000_000_000
LINES = "application/x-ndjson"
Line = dict[str, Any]
FAMILY = "diffusiongemma"
DETAILS = {"parent_model": "", "format": "mlx", "family": FAMILY, "families": [FAMILY], "parameter_size": "",
           "quantization_level": ""}  # fmt: skip


class TextWanted(NamedTuple):
    """A request that asks for text: its body, what is to be answered, and how that is written."""

    body: OllamaRequest
    wanted: Wanted
    answer: OllamaAnswer


class OllamaRoutes:
    """What a service answers in Ollama's form."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.routes = [
            Route("/api/version", self.version),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.tags),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/chat", self.chat, methods=["POST"]),
            Route("/api/generate", self.generate, methods=["POST"]),
        ]

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def tags(self, request: Request) -> Response:
        """The models that there are, which is also the one that is loaded."""
        name, since = self._service.name, self._service.since.isoformat()
        card = {"name": name, "model": name, "modified_at": since, "size": 0, "digest": "", "details": DETAILS}
        return JSONResponse({"models": [card]})

    async def show(self, request: Request) -> Response:
        body = OllamaShow.read(await read_body(request, self._service.engine.limits))
        self._service.check_name(body.asked)
        config = self._service.engine.model.config
        facts = {"general.architecture": FAMILY, f"{FAMILY}.context_length": self._service.context,
                 f"{FAMILY}.embedding_length": config.hidden_size, f"{FAMILY}.block_count": len(config.layer_types),
                 f"{FAMILY}.vocab_size": config.vocab_size}  # fmt: skip
        said = {"modelfile": "", "parameters": "", "template": "", "details": DETAILS, "model_info": facts}
        capabilities = ["completion", "tools", "thinking", "insert"]
        return JSONResponse({**said, "modified_at": self._service.since.isoformat(), "capabilities": capabilities})

    async def chat(self, request: Request) -> Response:
        body = await read_body(request, self._service.engine.limits)
        return await self._reply(request, await self._service.prepare(self.read_chat, body))

    async def generate(self, request: Request) -> Response:
        body = await read_body(request, self._service.engine.limits)
        return await self._reply(request, await self._service.prepare(self.read_generate, body))

    def read_chat(self, raw: bytes) -> TextWanted | Line:
        """A chat's body, and what is to be answered. Raises OptionError, PromptError and RequestError."""
        body = OllamaChat.read(raw)
        if not body.messages:
            return self._loaded(body, {"message": {"role": "assistant", "content": ""}})
        check_conversation(body.messages, by_id=False)
        wanted = self._service.wanted(body.as_chat(*self._bounds))
        return TextWanted(body, wanted, OllamaAnswer(self._service, wanted, is_chat=True, is_raw=False))

    def read_generate(self, raw: bytes) -> TextWanted | Line:
        """A prompt's body, and what is to be answered. Raises OptionError, PromptError and RequestError."""
        body = OllamaGenerate.read(raw)
        if not (body.prompt or body.suffix):
            return self._loaded(body, {"response": ""})
        if not body.suffix:
            wanted = self._service.wanted(body.as_openai(*self._bounds))
            return TextWanted(body, wanted, OllamaAnswer(self._service, wanted, is_chat=False, is_raw=bool(body.raw)))
        wanted = gaps_of(self._service, body.as_gap(*self._bounds))
        answer = OllamaAnswer(self._service, wanted, is_chat=False, is_raw=True, ignored=body.ignored)
        return TextWanted(body, wanted, answer)

    def _loaded(self, body: OllamaRequest, nothing: Line) -> Line:
        """The answer to a request without a question, by which clients have a model loaded. Raises RequestError."""
        self._service.check_name(body.wishes(*self._bounds)["model"])
        return {"model": self._service.name, "created_at": datetime.now(UTC).isoformat(), **nothing, "done": True,
                "done_reason": "load"}  # fmt: skip

    @property
    def _bounds(self) -> tuple[int, int]:
        return self._service.context, self._service.engine.limits.max_tokens

    async def _reply(self, request: Request, asked: TextWanted | Line) -> Response:
        if not isinstance(asked, TextWanted):
            return JSONResponse(asked)
        body, wanted, answer = asked
        answers, spent = Answers(self._service.engine, wanted), request.scope["spent"]
        if body.streams:
            return AnswerStream(answers, streamed(answer, answers, spent), self._service.stream_seconds, LINES)
        with answers:
            return JSONResponse(await unless_gone(request, answer.whole(answers, spent)))


class OllamaAnswer:
    """One answer as lines: its parts, and a last one with its figures."""

    def __init__(
        self, service: Service, wanted: Wanted, is_chat: bool, is_raw: bool, ignored: Sequence[str] = ()
    ) -> None:
        """ignored: options that had no meaning, which the last line names."""
        self._ignored = {"ignored": ignored} if ignored else {}
        self._name, self._is_chat, self._is_raw = service.name, is_chat, is_raw
        self._reader = service.turns.begin(wanted[0].tokens, wanted[0].settings)
        self._began = time.monotonic()

    async def lines(self, answers: Answers, spent: Spent) -> AsyncIterator[Line]:
        """One line a part, as soon as it is certain."""
        async for _, event in answers:
            if isinstance(event, Segment):
                for piece in [event.text] if self._is_raw else self._reader.push(event.tokens):
                    yield self._line(piece)
            elif isinstance(event, Finish):
                spent.add([event.stats])
                for piece in [] if self._is_raw else self._reader.push([], last=True):
                    yield self._line(piece)
                yield {**self._line(""), **self._ignored, "done": True, **self._figures(event.stats),
                       "done_reason": "stop" if event.finish_reason == "stop" else "length"}  # fmt: skip

    async def whole(self, answers: Answers, spent: Spent) -> Line:
        """The lines as one: texts and calls joined, all else from the last."""
        joined: Line = {}
        line: Line = {}
        async for line in self.lines(answers, spent):
            for name, value in (line["message"] if self._is_chat else line).items():
                if name in ("content", "response", "thinking", "tool_calls"):
                    joined[name] = joined[name] + value if name in joined else value
        return {**line, "message": {**line["message"], **joined}} if self._is_chat else {**line, **joined}

    def _line(self, piece: Piece) -> Line:
        text, extra = (piece, {}) if isinstance(piece, str) else ("", _apart(piece))
        said = {"message": {"role": "assistant", "content": text, **extra}} if self._is_chat else {
            "response": text, **extra}  # fmt: skip
        return {"model": self._name, "created_at": datetime.now(UTC).isoformat(), **said, "done": False}

    def _figures(self, stats: Stats) -> Line:
        """Counts of tokens, and times in nanoseconds."""
        return {
            "total_duration": int((time.monotonic() - self._began) * NANOSECONDS),
            "load_duration": 0,
            "prompt_eval_count": stats.prompt_tokens,
            "prompt_eval_duration": int(stats.prompt_seconds * NANOSECONDS),
            "eval_count": stats.generated_tokens,
            "eval_duration": int(stats.generation_seconds * NANOSECONDS),
        }


def _apart(piece: Thought | ToolCall) -> Line:
    """What is no text of the answer, by the name of its field."""
    if isinstance(piece, Thought):
        return {"thinking": piece.text}
    return {"tool_calls": [{"function": {"name": piece.name, "arguments": dict(piece.arguments)}}]}


async def streamed(answer: OllamaAnswer, answers: Answers, spent: Spent) -> AsyncIterator[str]:
    """The lines as JSON; an answer that fails on its way ends with an error."""
    spent.note = " left"
    try:
        async for line in answer.lines(answers, spent):
            yield json.dumps(line, ensure_ascii=False) + "\n"
        spent.note = ""
    except RequestError as error:
        spent.note = f" failed={error.status}"
        yield json.dumps(error_form(OLLAMA, error)) + "\n"
