"""The page at `/`: its files as the package has them, and the facts that it shows.

The page loads nothing from elsewhere, and its policy forbids that it ever does. Knows nothing of what it asks for.
"""

from __future__ import annotations

from importlib import resources
from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_diffusion import __version__
from mlx_diffusion.modes import MODES
from mlx_diffusion.serving.service import Service

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FIRST = "index.html"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageRoutes:
    """The page of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        folder = resources.files("mlx_diffusion.serving") / "page"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if PurePath(file.name).suffix in TYPES}
        self.routes = [Route("/", self.first), Route("/facts", self.facts)]
        self.routes += [Route(f"/page/{name}", self.file) for name in sorted(self._files) if name != FIRST]

    async def first(self, request: Request) -> Response:
        return self._response(FIRST)

    async def file(self, request: Request) -> Response:
        return self._response(PurePath(request.url.path).name)

    def _response(self, name: str) -> Response:
        return Response(self._files[name], headers=HEADERS, media_type=TYPES[PurePath(name).suffix])

    async def facts(self, request: Request) -> Response:
        mode = self._service.defaults.mode or "reference"
        return JSONResponse(
            {"model": self._service.name, "version": __version__, "modes": list(MODES), "mode": mode},
        )
