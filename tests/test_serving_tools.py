"""Calls of tools that a request asks for: in each interface's own words, and never without what they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from served import Served, say, served

tool_choices = pytest.importorskip("mlx_diffusion.serving.tool_choices")


def function(name: str, **more: Any) -> dict[str, Any]:
    keys = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]}
    return {"type": "function", "function": {"name": name, "parameters": keys, **more}}


TOOLS = [function("address"), function("age")]
NAMED = {"type": "function", "function": {"name": "age"}}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(max_denoising_steps=3) as running:  # calls that nobody has learned take all that they may
        yield running


@pytest.mark.parametrize("choice, names", [("required", {"address", "age"}), (NAMED, {"age"})])
def test_a_call_comes_where_one_is_asked_for(server: Served, choice: Any, names: set[str]) -> None:
    asked = {"messages": say("Copy: fig oak ant"), "tools": TOOLS, "tool_choice": choice, "max_tokens": 64}
    (made,) = server.post(parallel_tool_calls=False, **asked).json()["choices"]
    (call,) = made["message"]["tool_calls"]
    assert call["function"]["name"] in names and set(json.loads(call["function"]["arguments"])) == {"name"}
    assert made["message"]["content"] is None and made["finish_reason"] == "tool_calls"


def test_anthropics_choices_mean_the_same(server: Served) -> None:
    tools = [{"name": one["function"]["name"], "input_schema": one["function"]["parameters"]} for one in TOOLS]
    asked = {"model": "demo", "messages": say("Copy: fig oak ant"), "tools": tools, "max_tokens": 64}
    for choice, names in (({"type": "any", "disable_parallel_tool_use": True}, {"address", "age"}),
                          ({"type": "tool", "name": "age"}, {"age"})):  # fmt: skip
        (block,) = server.post("/v1/messages", tool_choice=choice, **asked).json()["content"]
        assert block["type"] == "tool_use" and block["name"] in names and set(block["input"]) == {"name"}
    for choice in ({"type": "tool"}, {"type": "any", "name": "age"}):
        got = server.post("/v1/messages", tool_choice=choice, **asked)
        assert got.status_code == 400 and "name" in got.json()["error"]["message"]


@pytest.mark.parametrize(
    "choice, tools, said",
    [
        ("required", [], "there are no tools"),
        ({"type": "function", "function": {"name": "x"}}, TOOLS, "names 'x'"),
        ("some", TOOLS, "tool_choice"),
        ("required", [function("a b")], "a call may have letters"),
    ],
)
def test_choices_without_their_tools_are_refused(server: Served, choice: Any, tools: Any, said: str) -> None:
    got = server.post(messages=say("Hello"), tools=tools, tool_choice=choice)
    assert got.status_code == 400 and said in got.json()["error"]["message"]
    both = server.post(messages=say("Hello"), tools=TOOLS, tool_choice=choice, response_format={"type": "json_object"})
    assert both.status_code == 400


def test_only_what_is_asked_for_holds_an_answer() -> None:
    form = tool_choices.form_of_calls
    assert form(TOOLS, None, True) is form(TOOLS, "auto", True) is form(TOOLS, "none", False) is form([], None, True)
    assert form(TOOLS, "auto", True) is None
    assert form(TOOLS, "auto", False) == {"tools": TOOLS, "choice": "auto", "parallel": False}
    strict = [*TOOLS, function("road", strict=True)]
    assert form(strict, None, True) == {"tools": strict, "choice": "auto", "parallel": True}
