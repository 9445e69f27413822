"""A server that runs in a thread for the tests, on the bundled checkpoint, and clients of it; and one in process."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import config_dict, hub_tensors, model_of, write_checkpoint, write_shallow

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import Checkpoint, find_folder
from mlx_diffusion.loading import load_model
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.limits import Limits
from mlx_diffusion.serving.prefix_folder import PrefixFolder
from mlx_diffusion.serving.server import Address, bind, build_server
from mlx_diffusion.tokenizer import load_tokenizer

httpx, openai, _, _ = (pytest.importorskip(name) for name in ("httpx", "openai", "starlette", "uvicorn"))
app, guard, service = (pytest.importorskip(f"mlx_diffusion.serving.{name}") for name in ("app", "guard", "service"))
testing = pytest.importorskip("starlette.testclient")


def shallow_demo() -> DiffusionGemma:
    """Two of the bundled checkpoint's five layers, with short canvases, where no answer has to be right."""
    with tempfile.TemporaryDirectory() as folder:
        return load_model(Checkpoint.open(write_shallow(DEMO, Path(folder) / "demo", 16)))


DEMO = find_folder("demo")
MODEL, SHALLOW, TOKENIZER = model_of(DEMO), shallow_demo(), load_tokenizer(DEMO)
PREFIX_BYTES = 50_000_000
LIMITS = Limits(max_requests=3, max_waiting=8, max_bytes=20_000, max_tokens=500)


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


COPY = say("Copy: fig oak ant")


class Served:
    """A server that runs in a thread, and clients of it."""

    def __init__(self, url: str, log: list[str], key: str) -> None:
        self.log, self.http = log, httpx.Client(base_url=url, timeout=60)
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)

    def post(self, path: str = "/v1/chat/completions", **body: Any) -> Any:
        return self.http.post(path, json=body)

    def gauge(self, name: str) -> float:
        found = [line for line in self.http.get("/metrics").text.splitlines() if line.startswith(name + " ")]
        return float(found[0].split()[1])

    def chunks(self, **body: Any) -> list[dict[str, Any]]:
        """The chunks of a streamed chat; what ends the stream is checked and left out."""
        lines = self.post(stream=True, **body).text.split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@contextmanager
def served(
    limits: Limits = LIMITS,
    key: str | None = None,
    folder: Path | None = None,
    model: DiffusionGemma = MODEL,
    **config: Any,
) -> Iterator[Served]:
    log: list[str] = []
    address = Address(port=0, key=key)
    with bind(address) as place:
        server = build_server(
            model,
            TOKENIZER,
            "demo",
            address,
            log.append,
            limits=limits,
            defaults=GenerationConfig(**config),
            prefix_bytes=PREFIX_BYTES,
            prefix_folder=None if folder is None else PrefixFolder(folder),
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive())
            yield Served(f"http://127.0.0.1:{place.getsockname()[1]}", log, key or "none")
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def in_process(folder: Path, limits: Limits, **config: Any) -> Iterator[tuple[Any, DiffusionGemma]]:
    """A client of the application on random weights, which answer at once; and its model."""
    sizes = config_dict(vocab_size=1024)
    write_checkpoint(folder, sizes, hub_tensors(ModelConfig.from_dict(sizes, where="config")))
    engine = EngineThread(model_of(folder), TOKENIZER, limits, 0, lambda line: None)
    asked = service.Service(engine, "demo", GenerationConfig(**config))
    whole = app.build_app(asked, guard.Entry(), lambda line: None)
    with testing.TestClient(whole, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client, engine.model


def wait_until(true: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
