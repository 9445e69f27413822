"""Requests as Anthropic's clients write them, read as the chats of OpenAI's form that ask for the same.

Knows nothing of how an answer is made or written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from mlx_diffusion.serving.bodies import Body, Count
from mlx_diffusion.serving.openai_requests import ChatRequest
from mlx_diffusion.serving.problems import bad
from mlx_diffusion.serving.tool_choices import NamedChoice, NamedFunction


class CacheControl(Body):
    """Where a prompt is to be kept. All prompts are."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: str | None = None


class TextBlock(Body):
    """Some text. Its last two fields are those of answers, which clients send back."""

    type: Literal["text"]
    text: str
    citations: Annotated[list[Any], Field(max_length=0)] | None = None
    parsed_output: Any = None
    cache_control: CacheControl | None = None


class ThinkingBlock(Body):
    """Thoughts of an earlier turn of the model."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class Caller(Body):
    """Who has made a call: the model itself."""

    type: Literal["direct"]


class ToolUseBlock(Body):
    """A call of an earlier turn of the model."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: Caller | None = None
    toolset_name: None = None
    cache_control: CacheControl | None = None


class ToolResultBlock(Body):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool | None = None
    toolset_name: None = None
    cache_control: CacheControl | None = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class ConversationTurn(Body):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    def messages(self) -> Iterator[dict[str, Any]]:
        """The same in OpenAI's form: results of calls are messages of their own."""
        blocks = [TextBlock(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        for block in blocks:
            if isinstance(block, ToolResultBlock):
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": text_of(block.content)}
        text = text_of([block for block in blocks if isinstance(block, TextBlock)])
        thoughts = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
        calls = [
            {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": json.dumps(block.input)}}
            for block in blocks
            if isinstance(block, ToolUseBlock)
        ]
        extra = ({"reasoning_content": thoughts} if thoughts else {}) | ({"tool_calls": calls} if calls else {})
        if text or extra or not blocks:
            yield {"role": self.role, "content": text, **extra}


class DeclaredTool(Body):
    """A function that the model may call. `strict` holds its calls to the schema."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = None


class ToolChoice(Body):
    """Whether tools may be called, must be, or which."""

    type: Literal["auto", "none", "any", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def as_openai(self) -> dict[str, Any]:
        """The same in OpenAI's form. Raises RequestError."""
        if (self.type == "tool") != (self.name is not None):
            raise bad("a name belongs to the tool_choice of type tool, and that needs one", "tool_choice")
        named = None if self.name is None else NamedChoice(type="function", function=NamedFunction(name=self.name))
        return {
            "tool_choice": named or {"any": "required"}.get(self.type, self.type),
            "parallel_tool_calls": not self.disable_parallel_tool_use,
        }


class Thinking(Body):
    """Whether the model thinks first: with "adaptive", where its template says so. Thoughts count as tokens of the
    answer, which ends where they pass the budget."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = None

    @property
    def first(self) -> bool | None:
        if self.budget_tokens is not None and self.type != "enabled":
            raise bad(f"budget_tokens belong to thinking of type enabled, and not {self.type}", "thinking")
        return None if self.type == "adaptive" else self.type == "enabled"


class ContextEdit(Body):
    """An edit of the conversation that leaves it as it is; no other is made here."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"]


class ContextManagement(Body):
    """The edits of the conversation before it is answered."""

    edits: list[ContextEdit] | None = None


class SchemaOutput(Body):
    """A schema that the answer fits."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    """The form of the answer. An effort of "high" is what a request without one asks for; there is no other here."""

    effort: Literal["high"] | None = None
    format: SchemaOutput | None = None


class CountRequest(Body):
    """The body of /v1/messages/count_tokens: what the model is given."""

    model: str
    messages: Annotated[list[ConversationTurn], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[DeclaredTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    context_management: ContextManagement | None = None
    output_config: OutputConfig | None = None

    def as_chat(self, **wishes: Any) -> ChatRequest:
        """The same in OpenAI's form, with further wishes."""
        system = text_of(self.system or "")
        messages = [{"role": "system", "content": system}] if system else []
        tools = [
            {"type": "function", "function": {"name": tool.name, "parameters": tool.input_schema,
                                              **({"description": tool.description} if tool.description else {}),
                                              **({} if tool.strict is None else {"strict": tool.strict})}}
            for tool in self.tools or []
        ]  # fmt: skip
        return ChatRequest.of(
            model=self.model,
            messages=[*messages, *(message for turn in self.messages for message in turn.messages())],
            tools=tools or None,
            **({} if self.tool_choice is None else self.tool_choice.as_openai()),
            enable_thinking=None if self.thinking is None else self.thinking.first,
            constraint=self._constraint,
            **wishes,
        )

    @property
    def _constraint(self) -> dict[str, Any] | None:
        form = self.output_config.format if self.output_config else None
        return None if form is None else {"json_schema": form.schema_}


class MessagesRequest(CountRequest):
    """The body of /v1/messages. Its clients must say a bound on the answer and often say their largest, so one above
    the server's means the server's."""

    max_tokens: Count
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Count | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[Literal["user_id"], str | None] | None = None  # says who asks, which changes no answer
    service_tier: Literal["auto", "standard_only"] | None = None

    @property
    def thought_tokens(self) -> int | None:
        """How many tokens the thoughts may have; None: as many as the answer."""
        return None if self.thinking is None else self.thinking.budget_tokens

    def as_openai(self, most: int) -> ChatRequest:
        """The same in OpenAI's form; `most` is how many tokens the server writes. Raises RequestError."""
        if (self.thought_tokens or 0) >= max(self.max_tokens, 1):
            raise bad(f"budget_tokens is {self.thought_tokens}; it must be less than max_tokens, {self.max_tokens}",
                      "thinking")  # fmt: skip
        if self.messages[-1].role == "assistant":
            raise bad("the last message is the assistant's; this server begins an answer, and goes on with none",
                      "messages")  # fmt: skip
        return self.as_chat(
            max_tokens=min(self.max_tokens, most),
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop_sequences,
        )


def text_of(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)
