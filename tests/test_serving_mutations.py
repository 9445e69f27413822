"""Requests of every route made wrong at any place: they are answered, or refused in a sentence of the route's form."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from mutations import changed_json, changes, json_text
from served import in_process

from mlx_diffusion.serving.limits import Limits

openapi = pytest.importorskip("mlx_diffusion.serving.openapi")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
LIMITS = Limits(max_requests=2, max_tokens=8, max_bytes=50_000)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "It.", "parameters": SCHEMA}}
CALL = {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
PARSED = CALL | {"function": {"name": "weather", "arguments": "{}", "parsed_arguments": {}}}  # by OpenAI's client
OWN_CALL = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
SAID: list[Any] = [
    {"role": "system", "content": "fig"},
    {"role": "user", "content": [{"type": "text", "text": "fig"}], "name": "oak"},
    {"role": "assistant", "content": None, "tool_calls": [PARSED], "refusal": None, "annotations": [], "parsed": None},
    {"role": "tool", "content": "fig", "tool_call_id": "a1"},
]
QUICK = {"max_denoising_steps": 2, "seed": 1, "stop": ["oak"]}
SAMPLED = {"mode": "autoregressive", "temperature": 0.5, "top_p": 0.9, "logit_bias": {"5": 1}}
CHAT = {"model": "demo", "messages": SAID, "tools": [TOOL], "max_tokens": 4, "stream": False}
USED = {"type": "tool_use", "id": "a1", "name": "weather", "input": {"city": "Oslo"}, "caller": {"type": "direct"}}
RESULT = {"type": "tool_result", "tool_use_id": "a1", "content": [{"type": "text", "text": "fig"}]}
BLOCKS: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "fig", "cache_control": {"type": "ephemeral"}}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "fig", "signature": "a"},
            {"type": "text", "text": "fig", "citations": None},
            USED,
        ],
    },
    {"role": "user", "content": [RESULT]},
]
OWN_TOOL = {"name": "weather", "description": "It.", "input_schema": SCHEMA, "strict": False}
ANTHROPIC = {"model": "demo", "messages": BLOCKS, "tools": [OWN_TOOL], "tool_choice": {"type": "auto"}, "system": "fig"}
FIM = {"model": "demo", "prompt": "fig", "suffix": "oak", "max_tokens": 2, "max_denoising_steps": 1, "temperature": 1.0}
LLAMA = {"input_prefix": "fig", "input_suffix": "oak", "input_extra": [{"filename": "a.txt", "text": "fig"}],
         "n_predict": 2, "max_denoising_steps": 1, "samplers": ["top_k"], "response_fields": ["content"]}  # fmt: skip
EDIT = "<|current_file_content|>a<|/current_file_content|><|code_to_edit|>a<|/code_to_edit|>"
APPLY = "<|original_code|>a<|/original_code|><|update_snippet|>a<|/update_snippet|>"
OPTIONS = {"num_predict": 2, "seed": 1, "num_ctx": 64, "stop": ["oak"]}
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        CHAT | QUICK | {"tool_choice": "auto", "parallel_tool_calls": True, "n": 2},
        CHAT | SAMPLED | {"logprobs": True, "top_logprobs": 2, "stream": True,
                          "stream_options": {"include_usage": True}},
        {"messages": SAID[:2], "max_tokens": 8, "max_denoising_steps": 2, "response_format": {
            "type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
    ],
    "/v1/completions": [
        {"model": "demo", "prompt": ["fig", "oak"], "max_tokens": 4, "echo": True, "n": 1} | QUICK,
        {"model": "demo", "prompt": [[5, 6], [7]], "max_tokens": 4, "logprobs": 2} | SAMPLED,
        {"prompt": "fig", "suffix": "oak", "max_tokens": 2, "max_denoising_steps": 1},
    ],
    "/v1/messages": [
        ANTHROPIC | {"max_tokens": 4, "stop_sequences": ["oak"], "metadata": {"user_id": "a"}, "stream": False},
        ANTHROPIC | {"max_tokens": 4, "thinking": {"type": "enabled", "budget_tokens": 2}, "stream": True},
    ],
    "/v1/messages/count_tokens": [ANTHROPIC],
    "/api/chat": [
        {"model": "demo", "messages": [*SAID[:2], {"role": "assistant", "content": "", "tool_calls": [OWN_CALL]},
                                       {"role": "tool", "content": "fig", "tool_name": "weather"}],
         "tools": [TOOL], "options": OPTIONS, "stream": False, "keep_alive": "5m"},
    ],
    "/api/generate": [
        {"model": "demo", "prompt": "fig", "system": "oak", "options": {"num_predict": 8}, "format": "json"},
        {"model": "demo", "prompt": "fig", "suffix": "oak", "options": OPTIONS, "keep_alive": -1, "stream": True},
    ],
    "/api/show": [{"model": "demo", "verbose": True}],
    "/infill": [LLAMA, LLAMA | {"stream": True, "stop": ["\n"], "top_k": 40, "t_max_predict_ms": 1000}],
    "/v1/fim/completions": [FIM, FIM | {"stream": True, "random_seed": 1, "min_tokens": 1, "metadata": {"a": "b"}}],
    "/v1/edit/completions": [{"messages": [{"role": "user", "content": EDIT}], "max_tokens": 2} | QUICK],
    "/v1/apply/completions": [{"messages": [{"role": "user", "content": APPLY}], "max_tokens": 2} | QUICK],
    "/v1/forms": [{"template": "{a} is {b}", "slots": {"a": "integer", "b": ["fig", "oak"]}, "context": ["fig"],
                   "seed": 1, "max_denoising_steps": 1}],
    "/v1/systemone": [{"state": {"fig": 1}, "seed": 1, "questions": {
        "a": {"type": "noul", "instructions": "?"}, "c": {"type": "score", "instructions": "?", "criteria": ["a", "b"]},
        "b": {"type": "choice", "instructions": "?", "criteria": ["x", "y"]}}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with in_process(tmp_path_factory.mktemp("random"), LIMITS, max_tokens=4, max_denoising_steps=2) as (asked, _):
        yield asked


def sentence_of(path: str, error: Any) -> str:
    """The sentence of an error in the form of the clients of this path."""
    if path.startswith("/api/"):
        assert set(error) == {"error"}
        return str(error["error"])
    if path.startswith("/v1/messages"):
        assert set(error) == {"type", "error"} and set(error["error"]) == {"type", "message"}
    else:
        assert set(error["error"]) == {"message", "type", "param", "code"}
    return str(error["error"]["message"])


def refused(client: Any, path: str, content: bytes, **headers: str) -> str | None:
    """Why a body is refused, in a sentence of the client's form; None where it is answered."""
    got = client.post(path, content=content, headers={"content-type": "application/json", **headers})
    if got.status_code == 200:
        assert "server_error" not in got.text and "its log says why" not in got.text
        return None
    assert 400 <= got.status_code < 500, (got.status_code, got.text, content)
    said = sentence_of(path, got.json())
    assert said and "\n" not in said and len(said) < 1000
    return said


def test_bodies_of_all_routes_are_answered_as_they_stand(client: Any) -> None:
    assert set(BODIES) == set(openapi.POSTED)
    for path, bodies in BODIES.items():
        for body in bodies:
            assert refused(client, path, json.dumps(body).encode()) is None


WRONG = [[{"wrong": 1}]]  # of no field's type
FREE = ("state",)  # takes anything


@pytest.mark.parametrize("path", BODIES)
def test_every_field_refuses_what_is_not_of_its_type_or_beyond_its_bounds(client: Any, path: str) -> None:
    own, model = BODIES[path][0], openapi.POSTED[path].body
    fields = model.model_json_schema()["properties"]
    for name in fields.keys() - set(FREE):
        kinds = json.dumps(fields[name])
        values: list[Any] = [WRONG, *([10**30, -(10**30)] if '"integer"' in kinds else [])]
        values += ["fig"] if '"enum"' in kinds or '"const"' in kinds else []
        for value in values:
            assert refused(client, path, json.dumps({**own, name: value}).encode()), (name, value)
    assert (
        refused(client, path, json.dumps({**own, "fig": 1}).encode()) == "fig is not known to this server; leave it out"
    )


@pytest.mark.parametrize("path", BODIES)
def test_a_body_of_another_type_is_refused(client: Any, path: str) -> None:
    body = json.dumps(BODIES[path][0]).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "fig", ""):
        said = refused(client, path, body, **{"content-type": kind})
        assert said and "send application/json" in said
    assert refused(client, path, b"{", **{"content-type": "Application/JSON; charset=UTF-8"})


@pytest.mark.parametrize(
    "path, wrong, said",
    [
        ("/v1/chat/completions", {"stop": 5}, "stop: input should be a valid string, or input should be a valid array"),
        ("/v1/chat/completions", {"tools": [TOOL, TOOL]}, "two tools are called 'weather'"),
        (
            "/v1/chat/completions",
            {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
            "differs",
        ),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 4}}, "it must be less than max_tokens, 4"),
        ("/v1/messages", {"thinking": {"type": "disabled", "budget_tokens": 2}}, "belong to thinking of type enabled"),
        ("/v1/messages", {"messages": BLOCKS[:2]}, "the last message is the assistant's"),
        ("/v1/messages", {"messages": []}, "messages: list should have at least 1 item"),
        ("/v1/chat/completions", {"stop": ["a", 5]}, "stop.1: input should be a valid string"),
        ("/v1/completions", {"prompt": [[1], [2, "a"]]}, "prompt.1.1: input should be a valid integer"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'text', 'thinking'"),
    ],
)
def test_the_sentence_says_what_is_wrong_and_where(client: Any, path: str, wrong: dict[str, Any], said: str) -> None:
    assert said in (refused(client, path, json.dumps(BODIES[path][0] | wrong).encode()) or "")


TOLD = {"role": "tool", "content": "fig"}
CALLED = {"role": "assistant", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    "messages, said",
    [
        ([{"role": "wizard", "content": "fig"}], "messages.0.role: input should be 'system'"),
        ([{"content": "fig"}], "messages.0.role is missing"),
        ([{"role": "user", "content": "fig", "name": 5}], "messages.0.name: input should be a valid string"),
        ([{"role": "user", "content": "fig", "images": ["aa"]}], "images are not read"),
        ([{"role": "user", "content": "fig", "mood": "good"}], "messages.0.mood is not known"),
        ([{"role": "user", "content": "fig"}, {**TOLD, "tool_call_id": "a1"}], "message 2 is a tool's, and the"),
        ([CALLED, TOLD], "message 2 is a tool's and has no tool_call_id"),
        ([CALLED, {**TOLD, "tool_call_id": "b2"}], "message 2 answers the call 'b2', which nobody has made"),
        ([CALLED, *[{**TOLD, "tool_call_id": "a1"}] * 2], "message 3 answers the call 'a1', which nobody has made"),
        ([{**CALLED, "role": "user", "content": "a"}], "message 1 has tool_calls, which a message of the role assist"),
        ([{"role": "user", "content": "a", "tool_call_id": "a1"}], "message 1 has tool_call_id, which"),
        ([{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}], "a part with 'x'"),
        ([CALLED, {"role": "user", "content": "a"}, {**TOLD, "tool_call_id": "a1"}], "message 3 is a tool's, and the"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}],
            "messages.0.tool_calls.0",
        ),
    ],
)
def test_conversations_that_nobody_has_had_are_refused(client: Any, messages: list[Any], said: str) -> None:
    assert said in (refused(client, "/v1/chat/completions", json.dumps({"messages": messages}).encode()) or "")


def test_results_of_unknown_calls_are_refused_in_all_forms(client: Any) -> None:
    plain, blocks = [{"role": "user", "content": "a"}, TOLD], [BLOCKS[0], BLOCKS[2]]
    for path, body in (("/api/chat", {"messages": plain}), ("/v1/messages", {"messages": blocks, "max_tokens": 4})):
        said = refused(client, path, json.dumps({"model": "demo", **body}).encode())
        assert said == "message 2 is a tool's, and the message before it calls none"


@hypothesis.settings(max_examples=EXAMPLES)
@hypothesis.given(st.data())
@pytest.mark.parametrize("path", BODIES)
def test_a_body_made_wrong_anywhere_is_answered_or_refused_in_a_sentence(
    client: Any, path: str, data: st.DataObject
) -> None:
    body = data.draw(st.sampled_from(BODIES[path]))
    refused(client, path, json_text(changed_json(body, data.draw(changes()))))
