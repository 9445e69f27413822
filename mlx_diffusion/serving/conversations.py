"""Conversations and tools as OpenAI's and Ollama's clients write them, checked and handed on as they were sent.

What a message holds as its content is checked where it becomes a prompt. Knows nothing of templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from mlx_diffusion.serving.bodies import AsSent, Body
from mlx_diffusion.serving.problems import bad

NO_IMAGES = "images are not read by this server; leave them out"
Content = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {}}, {"type": "null"}]})
]


class CalledFunction(Body):
    """A function with its arguments: an object, or the text of one."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str | dict[str, Any] | None = None
    parsed_arguments: Any = None  # OpenAI's own client adds it to what it has parsed, and `parsed` to the message
    description: str | None = None  # Ollama's clients send it back
    index: int | None = None  # and this


class EarlierCall(Body):
    """A call of an earlier turn of the model."""

    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None
    function: CalledFunction


class SpokenMessage(AsSent):
    """A message of a conversation. What clients send back with an answer though it says nothing must be empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: str | None = None  # of who speaks, where the template shows it
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    tool_calls: list[EarlierCall] | None = None
    tool_call_id: str | None = None  # of the call that a tool's message answers
    tool_name: str | None = None  # the same by the name of the function, as Ollama has it
    tool_responses: list[dict[str, Any]] | None = None
    refusal: str | None = None
    parsed: Any = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    images: list[str] | None = None
    prefix: Literal[False] | None = None


class OfferedFunction(Body):
    """A function that the model may call. `strict` holds its calls to the parameters."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OfferedTool(AsSent):
    """A tool, which is always a function."""

    type: Literal["function"] | None = None
    function: OfferedFunction


def check_conversation(messages: Sequence[SpokenMessage], *, by_id: bool) -> None:
    """Raise RequestError for images, and for a tool's message without the call that it answers.

    by_id: whether it has to say which one. If not, calls are answered in their order.
    """
    called: set[str | None] = set()  # by the last message that is no tool's
    for number, message in enumerate(messages, start=1):
        if message.images:
            raise bad(NO_IMAGES, "messages")
        if message.role != "tool":
            called = {call.id for call in message.tool_calls or []}
            continue
        answered = message.tool_call_id
        if not called:
            raise bad(f"message {number} is a tool's, and the message before it calls none", "messages")
        if answered is None and by_id:
            raise bad(f"message {number} is a tool's and has no tool_call_id; say which call it answers", "messages")
        if answered is not None and not called & {answered, None}:
            raise bad(f"message {number} answers the call {answered[:80]!r}, which nobody has made", "messages")
