"""The description of the server's interfaces in OpenAPI, made from the models that check its requests.

Knows nothing of how a request is answered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic.json_schema import models_json_schema

from mlx_diffusion import __version__
from mlx_diffusion.serving.anthropic_requests import CountRequest, MessagesRequest
from mlx_diffusion.serving.bodies import Body
from mlx_diffusion.serving.decision_requests import DecisionRequest
from mlx_diffusion.serving.edit_requests import ApplyRequest, EditRequest
from mlx_diffusion.serving.fim_requests import FimRequest, InfillRequest
from mlx_diffusion.serving.form_requests import FormRequest
from mlx_diffusion.serving.ollama_requests import OllamaChat, OllamaGenerate, OllamaShow
from mlx_diffusion.serving.openai_requests import ChatRequest, CompletionRequest

JSON, EVENTS, LINES = "application/json", "text/event-stream", "application/x-ndjson"
REFERENCE = "#/components/schemas/{model}"


class Posted(NamedTuple):
    """What can be posted to a path, and the media types of the answer."""

    body: type[Body]
    answers: tuple[str, ...]
    summary: str


class Readable(NamedTuple):
    """What can be read at a path."""

    media_type: str
    summary: str


POSTED = {
    "/v1/chat/completions": Posted(ChatRequest, (JSON, EVENTS), "The next message of a conversation, in OpenAI's form"),
    "/v1/completions": Posted(CompletionRequest, (JSON, EVENTS), "The text that follows a prompt, in OpenAI's form"),
    "/v1/messages": Posted(MessagesRequest, (JSON, EVENTS), "The next message, in Anthropic's form"),
    "/v1/messages/count_tokens": Posted(CountRequest, (JSON,), "How many tokens a prompt has, in Anthropic's form"),
    "/api/chat": Posted(OllamaChat, (LINES, JSON), "The next message of a conversation, in Ollama's form"),
    "/api/generate": Posted(OllamaGenerate, (LINES, JSON), "The answer to a prompt, in Ollama's form"),
    "/api/show": Posted(OllamaShow, (JSON,), "What there is to know of the model, in Ollama's form"),
    "/infill": Posted(InfillRequest, (JSON, EVENTS), "What belongs between two texts, in llama.cpp's form"),
    "/v1/fim/completions": Posted(FimRequest, (JSON, EVENTS), "The same in the form of Mistral and Mercury"),
    "/v1/edit/completions": Posted(EditRequest, (JSON, EVENTS), "The next edit of a part of a file, in Mercury's form"),
    "/v1/apply/completions": Posted(ApplyRequest, (JSON, EVENTS), "Code with an update applied, in Mercury's form"),
    "/v1/forms": Posted(FormRequest, (JSON,), "Forms whose slots are filled, each with its probability"),
    "/v1/systemone": Posted(DecisionRequest, (JSON,), "Questions about a state, answered by probabilities"),
}
READ = {
    "/v1/models": Readable(JSON, "The one model"),
    "/v1/models/{name}": Readable(JSON, "The model of that name"),
    "/api/version": Readable(JSON, "The server's version"),
    "/api/tags": Readable(JSON, "The one model, in Ollama's form"),
    "/api/ps": Readable(JSON, "The model that is loaded, in Ollama's form"),
    "/health": Readable(JSON, "Whether requests are answered"),
    "/metrics": Readable("text/plain", "Counts for Prometheus"),
    "/facts": Readable(JSON, "What the page shows of the server"),
    "/openapi.json": Readable(JSON, "This description"),
    "/": Readable("text/html", "The page for the browser"),
}


def description() -> dict[str, Any]:
    """The whole description, as `/openapi.json` serves it."""
    bodies = list(dict.fromkeys(asked.body for asked in POSTED.values()))
    schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=REFERENCE)[1]["$defs"]
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlx-diffusion", "version": __version__},
        "paths": {path: {"post": _posted(asked)} for path, asked in POSTED.items()}
        | {path: {"get": _read(path, told)} for path, told in READ.items()},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _posted(asked: Posted) -> dict[str, Any]:
    body = {"schema": {"$ref": REFERENCE.format(model=asked.body.__name__)}}
    return {
        "summary": asked.summary,
        "requestBody": {"required": True, "content": {JSON: body}},
        "responses": _responses(asked.answers),
    }


def _read(path: str, told: Readable) -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    parameters = {"parameters": [name]} if "{name}" in path else {}
    return {"summary": told.summary, **parameters, "responses": _responses((told.media_type,))}


def _responses(media_types: tuple[str, ...]) -> dict[str, Any]:
    refused = {"description": "One sentence that says why, in the interface's own form", "content": {JSON: {}}}
    return {"200": {"description": "Done", "content": {name: {} for name in media_types}}, "default": refused}
