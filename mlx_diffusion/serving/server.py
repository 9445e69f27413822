"""The server as a process runs it: an address, a model, and an end that lets requests finish.

Knows nothing of what is asked or answered.
"""

from __future__ import annotations

import importlib
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_diffusion.errors import OptionError
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.limits import Limits
from mlx_diffusion.serving.prefix_folder import PrefixFolder
from mlx_diffusion.tokenizer import Tokenizer

if TYPE_CHECKING:
    import uvicorn

PACKAGES = ("pydantic", "starlette", "uvicorn")
MISSING = "the server needs packages that are not installed ({}); run: pip install 'mlx-diffusion[serve]'"


@dataclass(frozen=True)
class Address:
    """Where the server listens, and who may come in. Raises OptionError for what would let everybody in."""

    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = None
    names: tuple[str, ...] = ()  # by which the server is called, beside its addresses
    open_to_all: bool = False  # without a key, at an address that others reach

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port is {self.port}; it must be 0 to 65535")
        if self.key is not None and (not self.key or not self.key.isascii() or not self.key.isprintable()):
            raise OptionError("the API key is empty or has characters that no header can have; choose another")
        if not self.is_local and self.key is None and not self.open_to_all:
            raise OptionError(
                f"{self.host} can be reached by others; add --api-key KEY, or --open-to-all if they all may use it"
            )

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def check_packages() -> None:
    """Raise OptionError, which says what to do, where a package that the server needs is not installed."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise OptionError(MISSING.format(error.name)) from None


def bind(address: Address) -> socket.socket:
    """A socket at the address, which does not listen yet; port 0 takes a free one. Raises OptionError."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        where = f"{address.host}, port {address.port}"
        raise OptionError(f"cannot listen at {where} ({error.strerror}); choose others by --host and --port") from error
    return bound


def build_server(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    name: str,
    address: Address,
    log: Callable[[str], None],
    *,
    defaults: GenerationConfig | None = None,
    limits: Limits | None = None,
    prefix_bytes: int = 0,
    prefix_folder: PrefixFolder | None = None,
) -> uvicorn.Server:
    """A server whose `run(sockets=[bind(address)])` answers requests until the process is asked to end.

    name          of the model, by which requests ask for it
    log           is given one line a request, without what was asked or answered
    defaults      options of requests that do not give them
    prefix_bytes  for prompts that were encoded, which are then not encoded again; 0 keeps none
    prefix_folder where they outlive this process

    SIGINT and SIGTERM let requests under way finish within the limits' grace; the handlers that there were before are
    called afterwards.
    """
    import uvicorn

    from mlx_diffusion.serving.app import build_app
    from mlx_diffusion.serving.connections import MOST_WITHOUT, PromptConnection
    from mlx_diffusion.serving.engine_thread import EngineThread
    from mlx_diffusion.serving.graceful_end import GracefulServer
    from mlx_diffusion.serving.guard import Entry
    from mlx_diffusion.serving.service import Service

    limits = limits or Limits()
    engine = EngineThread(model, tokenizer, limits, prefix_bytes, log, prefix_folder)
    service = Service(engine, name, defaults or GenerationConfig())
    names = (address.host.lower(), *(name.lower() for name in address.names))
    config = uvicorn.Config(
        build_app(service, Entry(address.key, names), log),
        http=PromptConnection,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=4 * (limits.max_requests + limits.max_waiting) + MOST_WITHOUT,
    )
    return GracefulServer(config, limits.grace_seconds, engine.stop)
