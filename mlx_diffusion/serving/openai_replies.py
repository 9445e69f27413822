"""Answers in OpenAI's form: a stream of chunks, and the whole reply that folds it.

Knows nothing of HTTP or of how an answer is made.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_diffusion.events import Draft, Finish, Segment, Stats
from mlx_diffusion.options import Settings
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.jobs import Step, Wish
from mlx_diffusion.serving.openai_logprobs import chat_logprobs, completion_logprobs
from mlx_diffusion.serving.turns import Piece, Thought, ToolCall, TurnReader, Turns, arguments_text
from mlx_diffusion.tokenizer import Tokenizer

Chunk = dict[str, Any]
REASONS = {"stop": "stop", "length": "length", "context": "length"}


@dataclass
class Reply:
    """What all chunks of one reply share, and the figures of its choices as they end."""

    model: str
    is_chat: bool
    answers: Answers
    wanted: Sequence[Wish]
    turns: Turns
    tokenizer: Tokenizer
    prompts: int = 1  # that the choices answer
    stats: list[Stats] = field(default_factory=list)
    echoes: Sequence[str] = ()  # what each choice of a completion begins with
    replaces: bool = False  # whether the content of a chat's chunk is all of its text so far, drafts among it

    def __post_init__(self) -> None:
        kind = "chat.completion" if self.is_chat else "text_completion"
        identity = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.head: Chunk = {"id": identity, "object": kind, "created": int(time.time()), "model": self.model}

    async def choices(self) -> AsyncIterator[Chunk]:
        """The parts of the choices, one at a time, as they stand in the chunks of a stream."""
        writers = [
            self._chat_choice(index, wish)
            if self.is_chat
            else CompletionChoice(index, self.tokenizer, self.turns, wish.settings)
            for index, wish in enumerate(self.wanted)
        ]
        if self.is_chat:
            for writer in writers:
                yield writer.part({"role": "assistant", "content": ""})
        for writer, echo in zip(writers, self.echoes, strict=False):
            yield writer.part({"text": echo})
        async for index, event in self.answers:
            if isinstance(event, Finish):
                self.stats.append(event.stats)
            for part in writers[index].take(event):
                yield part

    def _chat_choice(self, index: int, wish: Wish) -> ChatChoice:
        kind, reader = ReplacingChoice if self.replaces else ChatChoice, self.turns.begin(wish.tokens, wish.settings)
        return kind(index, self.tokenizer, self.turns, reader, wish.settings)

    async def chunks(self, with_usage: bool) -> AsyncIterator[Chunk]:
        """The chunks of a stream; with usage, a last one without choices counts tokens."""
        head = {**self.head, "object": "chat.completion.chunk" if self.is_chat else "text_completion"}
        if with_usage:
            head["usage"] = None
        async for part in self.choices():
            yield {**head, "choices": [part]}
        if with_usage:
            yield {**head, "choices": [], "usage": self.usage()}

    async def whole(self) -> Chunk:
        """The whole reply."""
        choices: dict[int, Chunk] = {}
        async for part in self.choices():
            choices[part["index"]] = folded(choices.get(part["index"]), part)
        finished = [choice if not self.is_chat else as_message(choice) for _, choice in sorted(choices.items())]
        return {**self.head, "choices": finished, "usage": self.usage()}

    def usage(self) -> Chunk:
        """The tokens of prompts, each counted once, and of all choices."""
        each = max(1, len(self.wanted) // self.prompts)
        prompt = sum(len(wish.tokens) for wish in self.wanted[::each])
        written = sum(stats.generated_tokens for stats in self.stats)
        cached = min(prompt, sum(stats.cached_tokens for stats in self.stats) // each)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


@dataclass
class ChatChoice:
    """One choice of a chat, as deltas of its message."""

    index: int
    tokenizer: Tokenizer
    turns: Turns
    reader: TurnReader
    settings: Settings
    calls: int = 0

    def part(self, delta: Chunk, logprobs: Any = None, reason: str | None = None) -> Chunk:
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def take(self, event: Step) -> Iterator[Chunk]:
        """What an event adds."""
        match event:
            case Segment():
                logprobs = chat_logprobs(event, self.tokenizer, self.settings)
                deltas = [self.delta(piece) for piece in self.reader.push(event.tokens)]
                deltas = deltas or ([{}] if logprobs else [])
                for number, delta in enumerate(deltas):
                    yield self.part(delta, None if number else logprobs)
            case Draft():
                yield self.part({"x-diffusion-draft": draft_fields(event, self.turns, self.settings)})
            case Finish():
                for piece in self.reader.push([], last=True):
                    yield self.part(self.delta(piece))
                reason = "tool_calls" if self.calls and event.finish_reason == "stop" else REASONS[event.finish_reason]
                yield self.part({}, reason=reason)

    def delta(self, piece: Piece) -> Chunk:
        if isinstance(piece, Thought):
            return {"reasoning_content": piece.text}
        if isinstance(piece, ToolCall):
            self.calls += 1
            function = {"name": piece.name, "arguments": arguments_text(piece)}
            identity = f"call_{uuid.uuid4().hex}"
            return {"tool_calls": [{"index": self.calls - 1, "id": identity, "type": "function", "function": function}]}
        return {"content": piece}


@dataclass
class ReplacingChoice(ChatChoice):
    """The same for who replaces the content by that of each delta: what is final, and the draft behind it."""

    answer: str = ""

    def take(self, event: Step) -> Iterator[Chunk]:
        if not isinstance(event, Draft):
            yield from super().take(event)
            return
        yield self.part({"content": self.answer + self.turns.shown(event.argmax.tolist(), self.settings)})

    def delta(self, piece: Piece) -> Chunk:
        if not isinstance(piece, str):
            return super().delta(piece)
        self.answer += piece
        return {"content": self.answer}


@dataclass
class CompletionChoice:
    """One choice of a plain completion: its text as it is, markers included."""

    index: int
    tokenizer: Tokenizer
    turns: Turns
    settings: Settings
    written: int = 0  # characters

    def part(self, delta: Chunk, logprobs: Any = None, reason: str | None = None) -> Chunk:
        return {"index": self.index, "text": "", **delta, "logprobs": logprobs, "finish_reason": reason}

    def take(self, event: Step) -> Iterator[Chunk]:
        """What an event adds."""
        match event:
            case Segment():
                logprobs = completion_logprobs(event, self.tokenizer, self.settings, self.written)
                self.written += len(event.text)
                if event.text or logprobs:
                    yield self.part({"text": event.text}, logprobs)
            case Draft():
                yield self.part({"x-diffusion-draft": draft_fields(event, self.turns, self.settings)})
            case Finish():
                yield self.part({}, reason=REASONS[event.finish_reason])


def draft_fields(draft: Draft, turns: Turns, settings: Settings) -> Chunk:
    """One denoising step: what the canvas says, how many of its positions this step has accepted, mean entropy."""
    return {
        "text": turns.shown(draft.argmax.tolist(), settings),
        "committed": int(draft.accepted.sum()),
        "block": draft.block,
        "step": draft.step,
        "entropy": float(draft.entropy.mean()) if draft.entropy.size else 0.0,
    }


def folded(choice: Chunk | None, part: Chunk) -> Chunk:
    """A choice with one more part: texts and lists go on, all else is replaced unless the part leaves it open."""
    if choice is None:
        return part
    result = dict(choice)
    for name, new in part.items():
        old = result.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            result[name] = folded(old, new)
        elif (isinstance(old, str) and isinstance(new, str)) or (isinstance(old, list) and isinstance(new, list)):
            result[name] = old + new  # type: ignore[operator]
        elif new is not None:
            result[name] = new
    return result


def as_message(choice: Chunk) -> Chunk:
    """A folded choice of a chat with its deltas as one message."""
    delta = choice.pop("delta")
    calls = [{name: value for name, value in call.items() if name != "index"} for call in delta.pop("tool_calls", [])]
    message = {**delta, "content": delta["content"] or (None if calls else "")}
    if calls:
        message["tool_calls"] = calls
    return {"index": choice["index"], "message": message, "logprobs": choice["logprobs"],
            "finish_reason": choice["finish_reason"]}  # fmt: skip
