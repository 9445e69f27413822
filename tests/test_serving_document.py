"""The served OpenAPI document: whole, and whatever fits it is taken or refused in a sentence, never failed at."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from served import LIMITS, MODEL, TOKENIZER, served

from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.problems import RequestError

app, openapi, service = (pytest.importorskip(f"mlx_diffusion.serving.{name}") for name in "app openapi service".split())

DOCUMENT = openapi.description()
SCHEMAS = DOCUMENT["components"]["schemas"]
SERVICE = service.Service(EngineThread(MODEL, TOKENIZER, LIMITS, 0, print), "demo", GenerationConfig())
OPENAI, ANTHROPIC, OLLAMA, FIM, EDIT, DECISION = (
    next(interface(SERVICE) for interface in app.INTERFACES if interface.__name__ == f"{name}Routes")
    for name in ("OpenAI", "Anthropic", "Ollama", "Fim", "Edit", "Decision")
)
READERS: dict[str, Callable[[bytes], Any]] = {
    "ChatRequest": OPENAI.read_chat,
    "CompletionRequest": OPENAI.read_completion,
    "MessagesRequest": ANTHROPIC.read_messages,
    "CountRequest": ANTHROPIC.count,
    "OllamaChat": OLLAMA.read_chat,
    "OllamaGenerate": OLLAMA.read_generate,
    "InfillRequest": FIM.read_infill,
    "FimRequest": FIM.read_fim,
    "EditRequest": EDIT.read_edit,
    "ApplyRequest": EDIT.read_apply,
    "DecisionRequest": DECISION.read_decision,
    "FormRequest": DECISION.read_form,
}
PLAIN = {
    "null": st.none(), "boolean": st.booleans(), "string": st.text(max_size=8),
    "number": st.floats(allow_nan=False, allow_infinity=False),
}  # fmt: skip
ANYTHING = st.sampled_from([None, True, 1, -1.5, "user", "content", ["a"], {"role": "user", "content": "a"}])


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema of the document allows."""
    if "$ref" in schema:
        return st.deferred(lambda: fitting(SCHEMAS[schema["$ref"].rpartition("/")[2]]))
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return st.one_of([fitting(one) for one in schema[name]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "array":
            return st.lists(fitting(schema.get("items", {})), max_size=2)
        case "object":
            fields = {name: fitting(one) for name, one in schema.get("properties", {}).items()}
            needed = {name: fields.pop(name) for name in schema.get("required", [])}
            if fields or needed:
                return st.fixed_dictionaries(needed, optional=fields)
            return st.dictionaries(st.sampled_from(["role", "content", "type", "name", "x"]), ANYTHING, max_size=3)
    return PLAIN.get(schema.get("type", ""), ANYTHING)


def test_the_document_has_every_path_that_is_served() -> None:
    routed = {route.path for interface in app.INTERFACES for route in interface(SERVICE).routes}
    routed = {path.replace("{name:path}", "{name}") for path in routed if not path.startswith("/page/")}
    assert set(DOCUMENT["paths"]) == routed | {"/health", "/metrics", "/openapi.json"}
    named = {one.split('"')[0] for one in json.dumps(DOCUMENT).split('"#/components/schemas/')[1:]}
    assert named == set(SCHEMAS)
    with served(key="secret") as running:
        assert running.http.get("/openapi.json").status_code == 401
        key = {"Authorization": "Bearer secret"}
        assert running.http.get("/openapi.json", headers=key).json() == DOCUMENT


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.data())
@pytest.mark.parametrize("name", READERS)
def test_what_fits_the_document_is_taken_or_refused_in_a_sentence(name: str, data: st.DataObject) -> None:
    body = data.draw(fitting(SCHEMAS[name]))
    body = body | data.draw(st.sampled_from([{}, {"model": "demo"}, {"model": "demo", "max_tokens": 9}]))
    try:
        READERS[name](json.dumps(body).encode())
    except (RequestError, OptionError, PromptError) as error:
        assert "\n" not in str(error) and str(error)
