"""Anthropic's routes, /v1/messages and its count of tokens: its request, its events or its one reply.

Knows nothing of how an answer is made.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_diffusion.events import Finish, Segment, Stats
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.anthropic_requests import CountRequest, MessagesRequest
from mlx_diffusion.serving.conversations import check_conversation
from mlx_diffusion.serving.error_forms import ANTHROPIC, error_form
from mlx_diffusion.serving.exchange import AnswerStream, read_body, unless_gone
from mlx_diffusion.serving.metrics import Spent
from mlx_diffusion.serving.openai_requests import ChatRequest
from mlx_diffusion.serving.problems import RequestError
from mlx_diffusion.serving.service import Service, Wanted
from mlx_diffusion.serving.turns import Piece, Thought, ToolCall, arguments_text

Fields = dict[str, Any]
CUT = {"stop_reason": "max_tokens", "stop_sequence": None}


class AnthropicRoutes:
    """What a service answers in Anthropic's form."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.routes = [
            Route(ANTHROPIC, self.messages, methods=["POST"]),
            Route(f"{ANTHROPIC}/count_tokens", self.count_tokens, methods=["POST"]),
        ]

    async def messages(self, request: Request) -> Response:
        raw = await read_body(request, self._service.engine.limits)
        body, wanted = await self._service.prepare(self.read_messages, raw)
        answer, spent = AnthropicAnswer(self._service, wanted, body.thought_tokens), request.scope["spent"]
        answers = Answers(self._service.engine, wanted)
        if body.stream:
            return AnswerStream(answers, streamed(answer, answers, spent), self._service.stream_seconds)
        with answers:
            return JSONResponse(await unless_gone(request, answer.whole(answers, spent)))

    def read_messages(self, raw: bytes) -> tuple[MessagesRequest, Wanted]:
        """The body, and what is to be answered. Raises OptionError, PromptError and RequestError."""
        body = MessagesRequest.read(raw)
        return body, self._wanted(body.as_openai(self._service.engine.limits.max_tokens))

    async def count_tokens(self, request: Request) -> Response:
        raw = await read_body(request, self._service.engine.limits)
        return JSONResponse({"input_tokens": await self._service.prepare(self.count, raw)})

    def count(self, raw: bytes) -> int:
        """How many tokens a body's prompt has. Raises OptionError, PromptError and RequestError."""
        return len(self._wanted(CountRequest.read(raw).as_chat())[0].tokens)

    def _wanted(self, chat: ChatRequest) -> Wanted:
        check_conversation(chat.messages, by_id=True)
        return self._service.wanted(chat)


class AnthropicAnswer:
    """One answer as events: the message, its blocks of one kind each, and its end."""

    def __init__(self, service: Service, wanted: Wanted, thought_tokens: int | None = None) -> None:
        """thought_tokens: the budget of thoughts, which the answer ends with where they pass it."""
        self._budget = thought_tokens
        self._prompt, self._settings = wanted[0].tokens, wanted[0].settings
        self._name, self._tokenizer = service.name, service.engine.tokenizer
        self._reader = service.turns.begin(self._prompt, self._settings)
        self._written: list[int] = []
        self._index, self._open = -1, ""  # the block at work, and its kind
        self._has_calls = False

    async def events(self, answers: Answers, spent: Spent) -> AsyncIterator[Fields]:
        """The events of a stream, each with its `type`."""
        message: Fields = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": self._name,
                   "content": [], "stop_reason": None, "stop_sequence": None,
                   "usage": {"input_tokens": len(self._prompt), "output_tokens": 0}}  # fmt: skip
        yield {"type": "message_start", "message": message}
        async for _, event in answers:
            if isinstance(event, Segment):
                self._written += event.tokens
                for piece in self._reader.push(event.tokens):
                    for one in self._piece(piece):
                        yield one
                if self._budget is not None and self._reader.thought_tokens > self._budget:
                    for one in self._close():
                        yield one
                    yield {"type": "message_delta", "delta": CUT, "usage": {"output_tokens": len(self._written)}}
                    break
            elif isinstance(event, Finish):
                spent.add([event.stats])
                for piece in self._reader.push([], last=True):
                    for one in self._piece(piece):
                        yield one
                for one in self._close():
                    yield one
                yield {"type": "message_delta", "delta": self._end(event), "usage": usage(event.stats)}
        yield {"type": "message_stop"}

    async def whole(self, answers: Answers, spent: Spent) -> Fields:
        """The message that the events add up to."""
        message: Fields = {}
        arguments = ""
        async for event in self.events(answers, spent):
            match event["type"]:
                case "message_start":
                    message = event["message"]
                case "content_block_start":
                    message["content"].append(dict(event["content_block"]))
                case "content_block_delta":
                    block, delta = message["content"][-1], event["delta"]
                    for name in ("text", "thinking"):
                        if name in delta:
                            block[name] += delta[name]
                    arguments = delta.get("partial_json", "")
                case "content_block_stop" if message["content"][-1]["type"] == "tool_use":
                    message["content"][-1]["input"] = json.loads(arguments)
                case "message_delta":
                    message |= {**event["delta"], "usage": event["usage"]}
        return message

    def _piece(self, piece: Piece) -> Iterator[Fields]:
        """What some text or a call adds."""
        if isinstance(piece, ToolCall):
            self._has_calls = True
            yield from self._close()
            call = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex}", "name": piece.name, "input": {}}
            yield from self._begin("tool_use", call)
            yield self._delta({"type": "input_json_delta", "partial_json": arguments_text(piece)})
            yield from self._close()
        elif isinstance(piece, Thought):
            yield from self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": piece.text})
        elif piece:
            yield from self._begin("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": piece})

    def _begin(self, kind: str, block: Fields) -> Iterator[Fields]:
        """Begin a block, unless one of this kind is at work."""
        if self._open != kind:
            yield from self._close()
            self._index, self._open = self._index + 1, kind
            yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: Fields) -> Fields:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _close(self) -> Iterator[Fields]:
        if self._open:
            self._open = ""
            yield {"type": "content_block_stop", "index": self._index}

    def _end(self, finish: Finish) -> Fields:
        """Why the answer ended, and by which stop string."""
        if finish.finish_reason != "stop":
            return CUT
        if self._written and self._written[-1] not in self._settings.eos_token_id:
            text = self._tokenizer.decode(self._written)
            found = [(text.find(stop), stop) for stop in self._settings.stop if stop in text]
            if found:
                return {"stop_reason": "stop_sequence", "stop_sequence": min(found)[1]}
        return {"stop_reason": "tool_use" if self._has_calls else "end_turn", "stop_sequence": None}


async def streamed(answer: AnthropicAnswer, answers: Answers, spent: Spent) -> AsyncIterator[str]:
    """The events as a stream sends them; an answer that fails on its way ends with an error."""
    spent.note = " left"
    try:
        async for one in answer.events(answers, spent):
            yield named(one)
        spent.note = ""
    except RequestError as error:
        spent.note = f" failed={error.status}"
        yield named(error_form(ANTHROPIC, error))


def named(event: Fields) -> str:
    """A server-sent event with its name."""
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"


def usage(stats: Stats) -> Fields:
    """Counts of tokens; what was found in the prefix store is counted apart."""
    return {
        "input_tokens": stats.prompt_tokens - stats.cached_tokens,
        "cache_read_input_tokens": stats.cached_tokens,
        "output_tokens": stats.generated_tokens,
    }
