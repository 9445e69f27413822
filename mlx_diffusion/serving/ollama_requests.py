"""Requests as Ollama's clients write them, read as the requests of OpenAI's form that ask for the same.

Knows nothing of how an answer is made or written.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mlx_diffusion.serving.bodies import Body, Count, Seed
from mlx_diffusion.serving.conversations import NO_IMAGES, OfferedTool, SpokenMessage
from mlx_diffusion.serving.openai_requests import ChatRequest, CompletionRequest
from mlx_diffusion.serving.problems import bad

SAME = ("temperature", "seed", "top_k", "top_p", "min_p", "stop")
RENAMED = {"repeat_penalty": "repetition_penalty", "repeat_last_n": "repetition_context_size"}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", *RENAMED.values())
Duration = Annotated[str, Field(pattern=r"^-?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+$|^-?\d+$")]  # as Go writes it
EVERYTHING = (-1, -2)  # as num_predict: as many tokens as may be


class OllamaShow(Body):
    """The body of /api/show; `name` is what `model` was called once."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None  # what is told is told either way

    @property
    def asked(self) -> str:
        """The model's name. Raises RequestError."""
        if None not in (self.model, self.name) and self.model != self.name:
            raise bad("model and name differ; send model", "name")
        name = self.name if self.model is None else self.model
        if name is None:
            raise bad("model is missing", "model")
        return plain_name(name)


class OllamaOptions(Body):
    """How to write; num_ctx is the least context that is wanted, in tokens."""

    temperature: float | None = None
    seed: Seed | None = None
    top_k: Count | None = None
    top_p: float | None = None
    min_p: float | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: Count | None = None
    num_predict: Count | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None


class OllamaRequest(Body):
    """What both requests share. The model stays loaded, whatever keep_alive says."""

    model: str
    stream: bool | None = None
    options: OllamaOptions | None = None
    think: bool | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: Duration | Annotated[float, Field(gt=-(2**63), lt=2**63)] | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False

    @property
    def constraint(self) -> dict[str, Any] | None:
        """What the text must be: any JSON object, or what fits a schema. Raises RequestError."""
        if isinstance(self.format, str) and self.format not in ("", "json"):
            raise bad(f"format is {self.format!r}; it must be json or a schema", "format")
        return (
            {"json_schema": self.format}
            if isinstance(self.format, dict)
            else ({"json_object": True} if self.format else None)
        )

    def wishes(self, context: int, most: int) -> dict[str, Any]:
        """The options in OpenAI's names; `context` and `most` are what the model and the server have, in tokens."""
        options = self.options or OllamaOptions()
        if (options.num_ctx or 0) > context:
            raise bad(f"num_ctx is {options.num_ctx}; this model has a context of {context}", "options")
        wanted = most if options.num_predict in EVERYTHING else options.num_predict
        renamed = {new: getattr(options, name) for name, new in RENAMED.items()}
        return {"model": plain_name(self.model), "max_tokens": wanted, "constraint": self.constraint, **renamed,
                **{name: getattr(options, name) for name in SAME}}  # fmt: skip


class OllamaChat(OllamaRequest):
    """The body of /api/chat."""

    messages: list[SpokenMessage]
    tools: list[OfferedTool] | None = None

    def as_chat(self, context: int, most: int) -> ChatRequest:
        """The same in OpenAI's form. Raises RequestError."""
        wishes = self.wishes(context, most)
        return ChatRequest.of(messages=self.messages, tools=self.tools, enable_thinking=self.think, **wishes)


class OllamaGenerate(OllamaRequest):
    """The body of /api/generate: one prompt, which is put into a conversation unless it is raw."""

    prompt: str
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None  # what follows the text that is to be written between the two
    images: list[str] | None = None

    def as_gap(self, context: int, most: int) -> CompletionRequest:
        """The same in OpenAI's form, where there is a suffix. Raises RequestError."""
        if self.system or self.think:
            raise bad("a gap is filled without system and think; leave them out, or suffix", "suffix")
        wishes = {name: value for name, value in self.wishes(context, most).items() if name not in SAMPLING}
        if self.options is not None and self.options.num_predict in EVERYTHING:
            wishes["max_tokens"] = None  # as long as a gap is where nobody says it
        return CompletionRequest.of(prompt=self.prompt, suffix=self.suffix, **wishes)

    @property
    def ignored(self) -> list[str]:
        """The options that have no meaning for a gap, and were sent."""
        options = self.options or OllamaOptions()
        return [name for name in (*SAMPLING[:4], *RENAMED) if self.suffix and getattr(options, name) is not None]

    def as_openai(self, context: int, most: int) -> ChatRequest | CompletionRequest:
        """The same in OpenAI's form. Raises RequestError."""
        if self.images:
            raise bad(NO_IMAGES, "images")
        wishes = self.wishes(context, most)
        if self.raw:
            if self.system or self.think is not None:
                raise bad("system and think are for the chat template, which raw: true leaves out", "raw")
            return CompletionRequest.of(prompt=self.prompt, **wishes)
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": self.prompt})
        return ChatRequest.of(messages=messages, enable_thinking=self.think, **wishes)


def plain_name(name: str) -> str:
    """A model's name without the tag that Ollama's clients add."""
    return name.removesuffix(":latest")
