"""Errors in the form of each interface, chosen by the path of the request."""

from __future__ import annotations

from typing import Any

from mlx_diffusion.serving.problems import RequestError

OLLAMA, ANTHROPIC = "/api/", "/v1/messages"
KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
OWN_KINDS = {**KINDS, 413: "request_too_large", 503: "overloaded_error"}  # of Anthropic's


def error_form(path: str, error: RequestError) -> dict[str, Any]:
    """The error as the clients that use this path expect it; OpenAI's form where no other is asked for."""
    if path.startswith(OLLAMA):
        return {"error": str(error)}
    if path.startswith(ANTHROPIC):
        kind = OWN_KINDS.get(error.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": str(error)}}
    kind = KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
