"""Calls of declared tools as a grammar, and prose around them: `<|tool_call>call:name{key:<|"|>text<|"|>}<tool_call|>`.

Arguments come in the order in which the chat template writes those of earlier calls. Knows nothing of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.messages import check_tools
from mlx_diffusion.structure.call_values import CallValues
from mlx_diffusion.structure.json_patterns import spelt_by
from mlx_diffusion.structure.schema_keywords import patterns_in, plain_schema
from mlx_diffusion.visible_text import shown

CHOICES = ("auto", "required")  # beside the tools' names
KEYS = ("tools", "choice", "parallel")
NAME = re.compile(r"[\w-]+", re.ASCII)


def grammar_of_tools(value: Mapping[Any, Any]) -> tuple[str, bytes]:
    """The grammar, in llguidance's dialect of Lark, and the patterns in it. Raises OptionError."""
    unknown = sorted(map(str, set(value) - set(KEYS)))
    if unknown:
        raise OptionError(f"constraint has the key {shown(unknown[0])} beside tools; there may be choice and parallel")
    schemas = _schemas(value["tools"])
    choice, parallel = value.get("choice", "auto"), value.get("parallel", True)
    if choice not in [*CHOICES, *schemas]:
        known = ", ".join([*CHOICES, *schemas][:12])
        raise OptionError(f"constraint choice is {shown(choice)}; it must be one of {known}")
    if not isinstance(parallel, bool):
        raise OptionError(f"constraint parallel is {shown(parallel)}; it must be True or False")
    called = [choice] if choice in schemas and choice not in CHOICES else list(schemas)
    values, calls = CallValues(), []
    for name in called:
        calls.append(f'"call:{name}" {values.arguments(schemas[name], f"tools.{name}.parameters")}')
    several = "+" if parallel and choice in CHOICES else ""
    start = f"call{several}"
    if choice == "auto":
        start = "TEXT? (call TEXT?)*" if parallel else "TEXT? call?"
    call = f"call: <|tool_call> ({' | '.join(calls)}) <tool_call|>"
    patterns = [spelt_by(pattern) for name in called for pattern in patterns_in(schemas[name])]
    return "\n".join([f"start: {start}", "TEXT: /(?s:.+)/", call, *values.lines]), "\0".join(patterns).encode()


def _schemas(tools: Any) -> dict[str, dict[str, Any]]:
    """The parameters of each tool by its name. Raises OptionError."""
    try:
        checked = check_tools(tools)
    except PromptError as error:
        raise OptionError(f"constraint tools: {error}") from None
    if not checked:
        raise OptionError("constraint tools has no tool; declare one, or leave the constraint out")
    found: dict[str, dict[str, Any]] = {}
    for tool in checked:
        function = tool.get("function", tool)
        name = function["name"]
        if not NAME.fullmatch(name):
            raise OptionError(
                f"constraint tools has the name {shown(name)}; a call may have letters, digits, _ and - there"
            )
        if name in found:
            raise OptionError(f"constraint tools has {shown(name)} twice; names must differ")
        found[name] = plain_schema(function.get("parameters") or {}, f"tools.{name}.parameters")
    return found
