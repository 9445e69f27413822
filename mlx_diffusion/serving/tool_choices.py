"""The calls of tools that a request allows or asks for, and the form that an answer has for their sake.

Knows nothing of how a form is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlx_diffusion.serving.bodies import Body
from mlx_diffusion.serving.problems import bad

MANY = "required"  # one call or more


class NamedFunction(Body):
    """A function, by its name."""

    name: str


class NamedChoice(Body):
    """The one function that is to be called."""

    type: Literal["function"]
    function: NamedFunction


def form_of_calls(
    tools: Sequence[Mapping[str, Any]], choice: str | NamedChoice | None, parallel: bool
) -> dict[str, Any] | None:
    """The constraint that a choice among tools makes; None where the model is left free. Raises RequestError.

    parallel: whether an answer may have several calls. A function that is declared as strict is called by its schema,
    whatever the choice.
    """
    choice = MANY if choice == "any" else choice
    names = [_function(tool).get("name") for tool in tools]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise bad(f"two tools are called {twice[0]!r}; give each a name of its own", "tools")
    if isinstance(choice, NamedChoice):
        name = choice.function.name
        called = [tool for tool in tools if _function(tool).get("name") == name]
        if not called:
            raise bad(f"tool_choice names {name!r}, and no such function is among the tools", "tool_choice")
        return {"tools": called, "choice": MANY, "parallel": False}
    if choice == MANY and not tools:
        raise bad("tool_choice is required, and there are no tools", "tool_choice")
    if not tools or choice == "none":
        return None
    if choice != MANY and parallel and not any(_function(tool).get("strict") is True for tool in tools):
        return None
    return {"tools": list(tools), "choice": choice or "auto", "parallel": parallel}


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) else {}
