"""Servers as processes of their own, started for a measurement and ended behind it: this package's, and mlx-vlm's.

Knows nothing of what they are asked.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.speed.clients import ServedLoad, load

START_SECONDS = 600.0
REST_SECONDS = 20.0  # for a server's end, before it is killed


@dataclass(frozen=True)
class MeasuredServer:
    """A server that listens on this machine."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    model: str

    def measure(self, clients: int, each: int, tokens: int, **wishes: Any) -> ServedLoad:
        """A load behind one request that does not count. Raises EvaluationError."""
        load(self.port, self.model, 1, 1, tokens, **wishes)
        found = load(self.port, self.model, clients, each, tokens, **wishes)
        return replace(found, memory_bytes=_resident(self.process.pid))


@contextmanager
def own_server(folder: Path, mode: str, rows: int) -> Iterator[MeasuredServer]:
    """This package's server with room for so many rows."""
    options = ("--model", str(folder), "--mode", mode, "--max-requests", str(rows))
    with _started("mlx-diffusion", ("mlx_diffusion.cli", "serve", *options), folder.name) as server:
        yield server


@contextmanager
def peer_server(folder: Path) -> Iterator[MeasuredServer]:
    """The server of the installed mlx-vlm, as it is by default."""
    options = ("--model", str(folder), "--host", "127.0.0.1")
    with _started("mlx-vlm", ("mlx_vlm.server", *options), str(folder)) as server:
        yield server


@contextmanager
def _started(name: str, command: Sequence[str], model: str) -> Iterator[MeasuredServer]:
    """A server that answers. Raises EvaluationError with the last line that it said, where it ends or never does."""
    port = _free_port()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)], stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            end = time.monotonic() + START_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise EvaluationError(f"the server {name} does not answer; it said: {_last_line(said)}")
                time.sleep(0.2)
            yield MeasuredServer(name, process, port, model)
        finally:
            process.terminate()
            try:
                process.wait(REST_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return bool(json.loads(connection.getresponse().read())["data"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False
    finally:
        connection.close()


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"


def _resident(process: int) -> int:
    """Memory of a process that is not paged out, in bytes; 0 where the system does not say."""
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=False)
    return 1024 * int(found.stdout) if found.returncode == 0 and found.stdout.strip().isdigit() else 0
