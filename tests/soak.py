"""Many requests to the server's application in one process, some dropped at random moments, and what is left of them.

    python tests/soak.py --requests 10000 --dropped 500

runs them on a checkpoint of random weights and prints one JSON object: the memory at the middle and at the end, rows
that have stayed behind, and passes that a row took part in after its client had gone. An hour's work at the default
size; --seconds ends it early, with what there was until then.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import config_dict, model_of, write_checkpoint
from conftest import hub_tensors as tensors_of

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import find_folder
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.app import build_app
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.guard import Entry
from mlx_diffusion.serving.jobs import Job
from mlx_diffusion.serving.limits import Limits
from mlx_diffusion.serving.service import Service
from mlx_diffusion.tokenizer import load_tokenizer

CLIENTS = 12
KEPT = (
    10_000  # short texts that the tokenizers library keeps, which would look like a leak for as long as new ones come
)
LIMITS = Limits(max_requests=6, max_waiting=16)
QUICK = {"max_denoising_steps": 2, "canvas_length": 8, "max_tokens": 8}
WRITTEN = {"mode": "autoregressive", "max_tokens": 4}


def tiny_model(folder: Path) -> DiffusionGemma:
    """A model of random weights with the bundled checkpoint's vocabulary."""
    config = config_dict(vocab_size=1024)
    write_checkpoint(folder, config, tensors_of(ModelConfig.from_dict(config, where="config")))
    return model_of(folder)


class WatchedThread(EngineThread):
    """Counts rows that a pass has after they were dropped."""

    gone: set[Job]
    late_rows = 0

    def drop(self, jobs: Any) -> None:
        super().drop(jobs)
        self.gone.update(jobs)

    def _advance(self) -> None:
        asked = set(self._running.values())
        self.late_rows += len(asked & (self.gone - self._dropped))
        super()._advance()
        self.gone &= {*self._running.values(), *self._waiting, *self._filling}


@dataclass
class Soak:
    """A server's application, and what its clients met."""

    engine: WatchedThread
    answered: int = 0
    left: int = 0
    refused: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)  # requests so far, bytes

    async def ask(self, app: Any, body: Mapping[str, Any], path: str, leave_after: int | None) -> None:
        """One request; with `leave_after`, its client closes the connection behind so many messages of the answer."""
        sent, gone = asyncio.Event(), asyncio.Event()
        raw = json.dumps(body).encode()
        status, messages = 0, 0

        async def receive() -> dict[str, Any]:
            if not sent.is_set():
                sent.set()
                return {"type": "http.request", "body": raw, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal status, messages
            status = message.get("status", status)
            messages += 1
            if leave_after is not None and messages >= leave_after:
                gone.set()

        if leave_after == 0:
            asyncio.get_running_loop().call_later(random.random() / 20, gone.set)
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
                 "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("localhost", 80),
                 "client": ("localhost", 1), "root_path": ""}  # fmt: skip
        await app(scope, receive, send)
        if leave_after is not None:
            self.left += 1
        elif status == 200:
            self.answered += 1
        else:
            self.refused += 1

    async def run(self, app: Any, requests: int, dropped: int, seconds: float, kept: int) -> None:
        """All requests, from `CLIENTS` clients at once, in an order that is the same every time."""
        for number in range(kept):
            body = {"model": "demo", "messages": [{"role": "user", "content": f"ant {number}"}]}
            await self.ask(app, body, "/v1/messages/count_tokens", None)
        self.answered -= kept
        chance, end = random.Random(7), time.monotonic() + seconds
        leaving = set(chance.sample(range(requests), dropped))
        numbers = iter(range(requests))

        async def client() -> None:
            for number in numbers:
                if time.monotonic() > end:
                    return
                path, body = request_of(number)
                await self.ask(app, body, path, chance.randrange(6) if number in leaving else None)
                if number % max(1, requests // 100) == 0:
                    gc.collect()
                    self.memory.append((number, resident_bytes()))

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        while self.engine.running or self.engine.waiting:
            await asyncio.sleep(0.01)

    def report(self) -> dict[str, Any]:
        """What is left behind them."""
        half = [size for _, size in self.memory[len(self.memory) // 2 :]] or [0]
        return {
            "answered": self.answered,
            "left": self.left,
            "refused": self.refused,
            "passes": self.engine.passes,
            "rows behind": self.engine.running + self.engine.waiting,
            "rows in passes after they were dropped": self.engine.late_rows,
            "memory at the middle": half[0],
            "memory at the end": half[-1],
        }


def request_of(number: int) -> tuple[str, dict[str, Any]]:
    """The path and the body of a request: chats, completions and gaps, streamed and not."""
    words = f"fig {number} oak {number % 7}"
    if number % 5 == 4:
        return "/infill", {"input_prefix": words, "input_suffix": " ant", "n_predict": 2, "max_denoising_steps": 1}
    wishes: dict[str, Any] = {**(QUICK if number % 2 else WRITTEN), "seed": number, "stream": number % 3 > 0}
    if number % 5 == 3:
        return "/v1/completions", {"prompt": words, **wishes}
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": words}], **wishes}


def resident_bytes() -> int:
    """The memory of this process, where the system says it; 0 where it does not."""
    figures = Path("/proc/self/statm")
    return 4096 * int(figures.read_text().split()[1]) if figures.is_file() else 0


def soak(model: DiffusionGemma, requests: int, dropped: int, seconds: float = 1e9, kept: int = 0) -> dict[str, Any]:
    """Run them on a model, and say what is left behind; before, the tokens of `kept` texts are counted."""
    engine = WatchedThread(model, load_tokenizer(find_folder("demo")), LIMITS, 1_000_000, lambda line: None)
    engine.gone = set()
    app = build_app(Service(engine, "demo", GenerationConfig()), Entry(), lambda line: None)
    found = Soak(engine)
    engine.start()
    try:
        asyncio.run(found.run(app, requests, dropped, seconds, kept))
        return found.report()
    finally:
        engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--dropped", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=1e9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(tiny_model(Path(folder)), args.requests, args.dropped, args.seconds, KEPT)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
