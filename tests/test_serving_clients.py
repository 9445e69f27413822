"""What clients ask before and beside answers: models, their properties, counts of tokens, budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from served import COPY, TOKENIZER, Served, say, served


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(max_denoising_steps=8) as running:
        yield running


def test_each_client_is_told_of_the_model_in_its_own_form(server: Served) -> None:
    own = server.http.get("/v1/models").json()["data"][0]
    assert own["object"] == "model" and own["type"] == "base" and own["capabilities"]["completion_chat"]  # Mistral's
    listed = server.http.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert listed["data"][0]["type"] == "model" and listed["first_id"] == "demo" and listed["has_more"] is False
    shown = server.post("/api/show", model="demo:latest").json()
    assert shown["model_info"]["diffusiongemma.context_length"] > 0 and "tools" in shown["capabilities"]
    assert server.post("/api/show", model="other").status_code == 404
    assert server.http.get("/api/ps").json() == server.http.get("/api/tags").json()


def test_tokens_of_a_prompt_are_counted_as_they_are_charged(server: Served) -> None:
    body = {"model": "demo", "messages": COPY, "system": "Be brief."}
    counted = server.post("/v1/messages/count_tokens", **body).json()["input_tokens"]
    usage = server.post("/v1/messages", max_tokens=9, **body).json()["usage"]
    assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]
    refused = server.post("/v1/messages/count_tokens", model="other", messages=COPY)
    assert refused.status_code == 404 and refused.json()["type"] == "error"


def test_an_answer_ends_where_its_thoughts_pass_their_budget(server: Served) -> None:
    body = {"model": "demo", "max_tokens": 200, "messages": say("Add: 27 + 15")}
    free = server.post("/v1/messages", **body, thinking={"type": "enabled", "budget_tokens": 199}).json()
    assert free["stop_reason"] == "end_turn"
    thoughts = len(TOKENIZER.encode(free["content"][0]["thinking"]))
    for stream in (False, True):
        short = {"type": "enabled", "budget_tokens": thoughts // 2}
        got = server.post("/v1/messages", **body, stream=stream, thinking=short)
        assert '"stop_reason":"max_tokens"' in got.text.replace(": ", ":")


def test_lists_that_clients_send_empty_ask_for_nothing(server: Served) -> None:
    empty = {"model": "demo", "prompt": "Copy: fig oak ant", "stream": False}
    assert server.post("/api/generate", images=[], **empty).json()["response"] == "fig oak ant"
    assert "images are not read" in server.post("/api/generate", images=["aa"], **empty).json()["error"]


def test_what_asks_nothing_of_ollama_is_answered_as_loaded(server: Served) -> None:
    for path, nothing in (("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})):
        got = server.post(path, model="demo:latest", keep_alive="5m", **nothing).json()
        assert got["done"] is True and got["done_reason"] == "load" and "error" not in got
        assert server.post(path, model="other", **nothing).status_code == 404


def test_names_of_mistral_s_clients_mean_the_same(server: Served) -> None:
    body: dict[str, Any] = {"messages": say("Describe it: a fox"), "max_tokens": 12}
    own, theirs = server.post(**body, seed=5).json(), server.post(**body, random_seed=5).json()
    assert own["choices"] == theirs["choices"]
    assert "send one of them" in server.post(**body, seed=4, random_seed=5).json()["error"]["message"]


AGENT: dict[str, Any] = {  # what agents that were written for Anthropic's own models send with every request
    "model": "demo",
    "max_tokens": 128_000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": "Copy: fig oak ant"}, {"role": "system", "content": "Today is Monday."}],
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "metadata": {"user_id": "a"},
}


def test_what_agents_send_is_taken_where_it_asks_for_nothing_else(server: Served) -> None:
    got = server.post("/v1/messages?beta=true", **AGENT)
    assert got.status_code == 200 and got.json()["stop_reason"] in ("end_turn", "max_tokens")
    for other in ({"output_config": {"effort": "low"}}, {"context_management": {"edits": [{"type": "compact"}]}}):
        assert server.post("/v1/messages", **AGENT | other).status_code == 400


def test_a_schema_of_anthropic_s_clients_is_held(server: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer"}},
        "required": ["age"],
        "additionalProperties": False,
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    got = server.post("/v1/messages", model="demo", max_tokens=40, messages=COPY, output_config=config).json()
    assert set(json.loads(got["content"][0]["text"])) == {"age"}


def test_a_method_that_a_path_lacks_is_answered_with_those_that_it_has(server: Served) -> None:
    assert server.http.get("/v1/messages").headers["allow"] == "POST"


@pytest.mark.parametrize(
    "fields", ['"seed": 1, "seed": 2', '"seed": 1, "logit_bias": {"5": 1, "5": 1}', '"stop": null, "stop": null']
)
def test_a_field_that_stands_twice_is_refused(server: Served, fields: str) -> None:
    got = server.http.post("/v1/completions", content=f'{{"prompt": "a", {fields}}}')
    assert got.status_code == 400 and "stands twice" in got.json()["error"]["message"]
