"""Messages and tools as callers write them: checked, and brought into the form that a template takes.

Knows nothing of templates or tokens.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_diffusion.errors import PromptError

Message = Mapping[str, Any]
INSTEAD = ("tool_calls", "tool_responses", "reasoning_content", "thinking", "reasoning")  # where content may be missing


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages, each with a role and a content of text. Raises PromptError, which names what is wrong."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise PromptError(f"the messages are of type {type(messages).__name__}; pass a list of dicts")
    if not messages:
        raise PromptError("the list of messages is empty; write one for the model to answer")
    return [_checked(message, f"message {number}") for number, message in enumerate(messages, 1)]


def check_tools(tools: Sequence[Message] | None) -> list[dict[str, Any]] | None:
    """The tools, each a dict with a name. Raises PromptError."""
    if tools is None:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise PromptError(f"the tools are of type {type(tools).__name__}; pass a list of dicts")
    checked = []
    for number, tool in enumerate(tools, 1):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(tool, Mapping) or not isinstance(function, Mapping):
            raise PromptError(
                f"tool {number} is {_shown(tool)}; declare it as a dict: "
                '{"type": "function", "function": {"name": …, "description": …, "parameters": …}}'
            )
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise PromptError(f'tool {number} has no name; add it: {{"type": "function", "function": {{"name": …}}}}')
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise PromptError(
                f"tool {number}, {_shown(function['name'])}, has parameters that are {_shown(parameters)}; "
                'pass a JSON schema as a dict: {"type": "object", "properties": {…}}'
            )
        checked.append(dict(tool))
    return checked


Given = tuple[list[dict[str, Any]], list[dict[str, Any]] | None]


def fit_template(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, render: Callable[..., str]
) -> Given:
    """The messages and tools in the form that the template takes: as they are or, if it has no use for that, plainer.

    Plainer means parts joined to one text, arguments of tool calls read from their JSON, and tools without parameters
    given the schema of none. Raises PromptError if the template takes neither.
    """
    plainer_tools = None if tools is None else [_with_parameters(tool) for tool in tools]
    plainer = [_plainer(message) for message in messages], plainer_tools
    if plainer == (messages, tools):
        return plainer
    try:
        text = render(messages, tools)
    except PromptError:
        render(*plainer)
        return plainer
    parts = [part["text"].strip() for message in messages for part in _parts(message)]
    spelled_out = any(str(message["content"]) in text for message in messages if _parts(message))
    return plainer if spelled_out or any(part not in text for part in parts) else (messages, tools)


def _plainer(message: dict[str, Any]) -> dict[str, Any]:
    plainer = dict(message)
    if _parts(message):
        plainer["content"] = "".join(part["text"] for part in _parts(message))
    if message.get("tool_calls"):
        plainer["tool_calls"] = [_with_arguments(call) for call in message["tool_calls"]]
    return plainer


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments, if they are the text of a JSON object, are that object."""
    function = call.get("function", call)
    try:
        arguments = json.loads(function["arguments"]) if isinstance(function.get("arguments"), str) else None
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return call
    changed = {**function, "arguments": arguments}
    return changed if function is call else {**call, "function": changed}


def _with_parameters(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function", tool)
    if function.get("parameters") is not None:
        return tool
    changed = {**function, "parameters": {"type": "object", "properties": {}}}
    return changed if function is tool else {**tool, "function": changed}


def _parts(message: Message) -> list[Any]:
    content = message.get("content")
    return list(content) if isinstance(content, list | tuple) else []


def _checked(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise PromptError(f'{where} is {_shown(message)}; pass a dict with "role" and "content"')
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise PromptError(f'{where} has the role {_shown(role)}; give it one: "user", "assistant" or "system"')
    given = [key for key in INSTEAD if message.get(key)]
    if content is None and not given:
        keys = _shown(", ".join(map(str, message)))
        raise PromptError(f'{where} has no content, its keys are: {keys}; add "content"')
    if isinstance(content, list | tuple):
        content = [_checked_part(part, where) for part in content]
        if not content:
            raise PromptError(f"{where} has an empty list as its content; pass text")
    elif not (content is None or isinstance(content, str) or (role == "tool" and isinstance(content, Mapping))):
        raise PromptError(f"{where} has a content that is {_shown(content)}; pass text, or a list of text parts")
    _check_tool_calls(message.get("tool_calls"), where)
    return {**message, **({} if content is None else {"content": content})}


def _checked_part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise PromptError(f'{where} has {_shown(part)} in its content; pass parts as {{"type": "text", "text": …}}')
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return {**part, "type": "text"}
    if kind in ("text", "input_text", "output_text"):
        raise PromptError(f'{where} has a part of type {kind} whose "text" is {_shown(part.get("text"))}; pass text')
    raise PromptError(f"{where} has a part of type {_shown(kind)} in its content; only text is taken so far")


def _check_tool_calls(calls: Any, where: str) -> None:
    if calls is None:
        return
    if not isinstance(calls, list | tuple):
        raise PromptError(f"{where} has tool_calls that are {_shown(calls)}; pass a list of dicts")
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise PromptError(
                f'{where} has {_shown(call)} in tool_calls; pass {{"function": {{"name": …, "arguments": …}}}}'
            )


def _shown(value: Any) -> str:
    """A value as one line of an error, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
