"""Routes for what is known in part: questions about a state, /v1/systemone, and forms to be filled, /v1/forms.

Knows nothing of how they are answered.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.bodies import Body
from mlx_diffusion.serving.decision_requests import DecisionRequest
from mlx_diffusion.serving.exchange import read_body, unless_gone
from mlx_diffusion.serving.form_requests import FormRequest
from mlx_diffusion.serving.jobs import Concluded, Wish
from mlx_diffusion.serving.service import Service


class DecisionRoutes:
    """What a service decides."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.routes = [
            Route("/v1/systemone", self.decide, methods=["POST"]),
            Route("/v1/forms", self.fill, methods=["POST"]),
        ]

    def read_decision(self, raw: bytes) -> tuple[DecisionRequest, Wish]:
        """The body, and what is to be decided. Raises OptionError, PromptError and RequestError."""
        body = DecisionRequest.read(raw)
        return body, body.wish(self._service)

    def read_form(self, raw: bytes) -> tuple[FormRequest, Wish]:
        """The body, and the form that is to be filled. Raises OptionError, PromptError and RequestError."""
        body = FormRequest.read(raw)
        return body, body.wish(self._service)

    async def decide(self, request: Request) -> Response:
        return await self._reply(request, self.read_decision, "systemone", "answers")

    async def fill(self, request: Request) -> Response:
        return await self._reply(request, self.read_form, "forms", "filled")

    async def _reply(
        self, request: Request, read: Callable[[bytes], tuple[Body, Wish]], kind: str, name: str
    ) -> Response:
        raw = await read_body(request, self._service.engine.limits)
        _, wish = await self._service.prepare(read, raw)
        answers = Answers(self._service.engine, [wish])
        with answers:
            found = await unless_gone(request, result_of(answers))
        head = {"id": f"{kind}-{uuid.uuid4().hex}", "object": kind, "model": self._service.name}
        return JSONResponse({**head, name: found.value})


async def result_of(answers: Answers) -> Concluded:
    """What the work has come to. Raises RequestError."""
    async for _, step in answers:
        if isinstance(step, Concluded):
            return step
    raise AssertionError("work without a result")
