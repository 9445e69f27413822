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
OF_ROLES = {"tool_calls": "assistant", "tool_call_id": "tool", "tool_name": "tool"}
PART = {"type", "text", "cache_control", "annotations"}  # the fields of a part of a content
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
    """Raise RequestError for what nobody says: images, calls of a user, or a tool's message without its call.

    by_id: whether such a message has to say which call it answers. If not, calls are answered in their order.
    """
    called: list[str | None] | None = None  # by the last message that is no tool's, and not answered yet
    for number, message in enumerate(messages, start=1):
        _check_fields(number, message)
        if message.role != "tool":
            called = [call.id for call in message.tool_calls or []] or None
            continue
        answered = message.tool_call_id
        if called is None:
            raise bad(f"message {number} is a tool's, and the message before it calls none", "messages")
        if answered is None and by_id:
            raise bad(f"message {number} is a tool's and has no tool_call_id; say which call it answers", "messages")
        found = next((id for id in called if id == answered or None in (id, answered)), ...)
        if found is ...:
            which = "one more call than there are" if answered is None else f"the call {answered[:80]!r}"
            raise bad(f"message {number} answers {which}, which nobody has made or which is answered", "messages")
        called.remove(found)


def _check_fields(number: int, message: SpokenMessage) -> None:
    """Raises RequestError for fields that a message of this role does not have."""
    if message.images:
        raise bad(NO_IMAGES, "messages")
    for name, role in OF_ROLES.items():
        if getattr(message, name) and message.role != role:
            raise bad(f"message {number} has {name}, which a message of the role {role} has", "messages")
    for part in message.content if isinstance(message.content, list) else []:
        odd = sorted(part.keys() - PART) if isinstance(part, dict) else []
        if odd:
            raise bad(f"message {number} has a part with {odd[0][:80]!r}, which is not known; leave it out", "messages")
