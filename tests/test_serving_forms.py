"""What an answer must be, and questions that are only decided: the same over HTTP as by the library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from served import COPY, SHALLOW, TOKENIZER, Served, say, served

from mlx_diffusion import decide, fill, generate

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "size": {"type": "integer"}},
          "required": ["name", "size"], "additionalProperties": False}  # fmt: skip
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
QUESTIONS: dict[str, Any] = {
    "is_tree": {"type": "noul", "instructions": "Is an oak named?"},
    "which": {"type": "choice", "instructions": "What comes first?", "criteria": ["fig", "oak"]},
    "many": {"type": "score", "instructions": "How many words are there?", "criteria": ["none", "one", "more"]},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(model=SHALLOW, mode="speculative") as running:
        yield running


def test_an_answer_has_the_form_that_is_asked_for(server: Served) -> None:
    options: dict[str, Any] = {"seed": 3, "temperature": 1.0, "max_tokens": 60}
    form = {"json_schema": SCHEMA}
    own = [
        generate(SHALLOW, TOKENIZER, COPY, mode="speculative", constraint=form, **options | {"seed": s}) for s in (3, 4)
    ]
    got = server.post(messages=COPY, n=2, response_format=FORMAT, **options).json()["choices"]
    assert [choice["message"]["content"] for choice in got] == own
    assert all(set(json.loads(text)) == {"name", "size"} for text in own)
    body = {"model": "demo", "stream": False, "options": {"seed": 3, "temperature": 1.0, "num_predict": 60}}
    assert server.post("/api/chat", messages=COPY, format=SCHEMA, **body).json()["message"]["content"] == own[0]
    plain = server.post("/v1/completions", prompt="It is", constraint={"choice": ["fig", "oak"]}, max_tokens=20).json()
    assert plain["choices"][0]["text"] in ("fig", "oak")
    done = server.post(messages=say("Anything"), response_format={"type": "json_object"}, max_tokens=60).json()
    assert isinstance(json.loads(done["choices"][0]["message"]["content"]), dict)


@pytest.mark.parametrize(
    "body, said",
    [
        ({"response_format": {"type": "json_schema"}}, "needs one"),
        ({"response_format": {"type": "json_object"}, "constraint": {"regex": "a"}}, "send one"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"constraint": {"regex": "("}}, "regex"),
        ({"constraint": {"file": "/etc/passwd"}}, "it must be a dict with one of the keys"),
        ({"constraint": {"choice": ["a" * 400]}, "max_tokens": 2}, "raise max_tokens"),
        ({"constraint": {"regex": "a"}, "stop": "a"}, "stop"),
    ],
)
def test_forms_that_no_answer_can_have_are_refused(server: Served, body: dict[str, Any], said: str) -> None:
    got = server.post(messages=COPY, **body)
    assert got.status_code == 400 and said in got.json()["error"]["message"]


@pytest.mark.parametrize("method", ["encoder", "canvas"])
def test_questions_are_decided_as_by_the_library(server: Served, method: Any) -> None:
    own = decide(SHALLOW, TOKENIZER, "fig oak ant", QUESTIONS, method=method, seed=3)
    got = server.post("/v1/systemone", state="fig oak ant", questions=QUESTIONS, method=method, seed=3).json()
    found = got["answers"]
    assert found.keys() == own.keys() and found["which"]["choice"] == own["which"]["choice"]
    assert found["is_tree"]["noul"] == pytest.approx(own["is_tree"]["noul"], abs=1e-4)
    assert found["many"]["score"] == pytest.approx(own["many"]["score"], abs=1e-4)


def test_questions_that_cannot_be_decided_are_refused(server: Served) -> None:
    twice = {"a": {"type": "choice", "instructions": "b", "criteria": ["c", "c"]}}
    for questions, state, said in ((twice, "d", "twice"), ({}, "d", "questions"), (QUESTIONS, " ", "is empty")):
        got = server.post("/v1/systemone", state=state, questions=questions)
        assert got.status_code == 400 and said in got.json()["error"]["message"]


def test_forms_are_filled_as_by_the_library(server: Served) -> None:
    form: dict[str, Any] = {"template": "{a} and {b}.", "slots": {"a": ["fig", "oak"], "b": "boolean"}}
    own: Any = fill(SHALLOW, TOKENIZER, context="fig", **form)
    one = {name: found["value"] for name, found in own.items()}
    for context in ("fig", ["fig"]):
        got = server.post("/v1/forms", context=context, **form).json()["filled"]
        filled = got if isinstance(context, list) else [got]
        assert [{name: found["value"] for name, found in each.items()} for each in filled] == [one]
        assert all(0 <= found["probability"] <= 1 for found in filled[0].values())


@pytest.mark.parametrize(
    "body, said",
    [
        ({"slots": {"b": "text"}}, "slot 'b' stands nowhere"),
        ({"slots": {"a": "verse"}}, "its type must be one of"),
        ({"slots": {"a": {"type": "regex", "pattern": "("}}}, "slot 'a'"),
        ({"slots": {}}, "slots"),
        ({"slots": {"a": "text"}, "context": ["c"] * 99}, "at most"),
        ({"slots": {"a": "text"}, "mode": "autoregressive"}, "mode"),
        ({"slots": {"a": "text"}, "file": "/etc/passwd"}, "file is not known"),
    ],
)
def test_forms_that_cannot_be_filled_are_refused(server: Served, body: dict[str, Any], said: str) -> None:
    got = server.post("/v1/forms", **{"template": "{a}", **body})
    assert got.status_code == 400 and said in got.json()["error"]["message"]
