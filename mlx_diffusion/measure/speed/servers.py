"""Servers as processes of their own, started for a measurement and ended behind it: this package's, and mlx-vlm's.

Knows nothing of what they are asked.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.speed.clients import ServedLoad, load, served_tasks
from mlx_diffusion.measure.speed.peer_folder import lay_out_for_peer
from mlx_diffusion.tokenizer import load_tokenizer

START_SECONDS = 600.0
REST_SECONDS = 20.0  # for a server's end, before it is killed
SAID_SECONDS = 5.0
COST = re.compile(rb"(?:peer prompt=|/v1/chat/completions 200 ).* steps=(\d+)")
PEER_WISHES = MappingProxyType(
    {"temperature": 1.0, "diffusion_sampler": "entropy-bound", "diffusion_full_canvas": True}
)


@dataclass(frozen=True)
class MeasuredServer:
    """A server that listens on this machine, and what it says on the way."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    model: str
    said: Path  # the file of it
    wishes: Mapping[str, Any]  # fields of a request that ask it for the reference's denoising

    def measure(self, clients: int, each: int, tokens: int, **wishes: Any) -> ServedLoad:
        """A load behind one like it, of a round, that does not count. Raises EvaluationError."""
        wishes = {**self.wishes, **wishes}
        before = len(self._costs(0))
        load(self.port, self.model, clients, 1, tokens, **wishes)
        before = len(self._costs(before + clients))
        began = _cpu_seconds(self.process.pid)
        found = load(self.port, self.model, clients, each, tokens, **wishes)
        passed = _cpu_seconds(self.process.pid) - began
        steps = sum(self._costs(before + clients * each)[before:])
        return replace(found, steps=steps, cpu_seconds=passed, memory_bytes=_resident(self.process.pid))

    def prompts(self) -> set[tuple[int, ...]]:
        """The prompts that the server says it was fed, as token ids."""
        found = re.findall(rb"peer prompt=([\d,]+)", self.said.read_bytes())
        return {tuple(int(token) for token in one.split(b",")) for one in found}

    def _costs(self, least: int) -> list[int]:
        """The steps of each answer so far; a server says them a moment after it has answered."""
        end = time.monotonic() + SAID_SECONDS
        while len(found := COST.findall(self.said.read_bytes())) < least and time.monotonic() < end:
            time.sleep(0.05)
        return [int(steps) for steps in found]


@contextmanager
def own_server(folder: Path, mode: str, rows: int) -> Iterator[MeasuredServer]:
    """This package's server with room for so many rows."""
    options = ("--model", str(folder), "--mode", mode, "--max-requests", str(rows))
    with _started("mlx-diffusion", ("mlx_diffusion.cli", "serve", *options), folder.name) as server:
        yield server


@contextmanager
def peer_server(folder: Path) -> Iterator[MeasuredServer]:
    """The server of the installed mlx-vlm on the same weights, asked for the same denoising.

    By itself it would take another sampler, the likeliest tokens, and canvases no longer than the answer may be.
    """
    with tempfile.TemporaryDirectory() as place:
        lay_out_for_peer(folder, Path(place))
        command = ("mlx_diffusion.measure.speed.peer_server", "--model", place, "--host", "127.0.0.1")
        with _started("mlx-vlm", command, place, PEER_WISHES) as server:
            yield server


def check_prompts(fed: set[tuple[int, ...]], checkpoint: Checkpoint, clients: int, each: int) -> None:
    """Raise EvaluationError where a server was fed other prompts for the messages of a load than this package makes."""
    tokenizer, size = load_tokenizer(checkpoint.folder), checkpoint.config.vocab_size
    for own in served_tasks(clients, each):
        for task in own:
            if tuple(tokenizer.encode_prompt(list(task.messages), size)) not in fed:
                raise EvaluationError(
                    f"mlx-vlm's server makes another prompt of {task.messages[-1]['content']!r} than this package, so "
                    "that nothing can be compared; leave out --against"
                )


@contextmanager
def _started(
    name: str, command: Sequence[str], model: str, wishes: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[MeasuredServer]:
    """A server that answers. Raises EvaluationError with the last line that it said, where it ends or never does."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as place:
        said = Path(place) / "said"
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            end = time.monotonic() + START_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise EvaluationError(f"the server {name} does not answer; it said: {_last_line(said)}")
                time.sleep(0.2)
            yield MeasuredServer(name, process, port, model, said, wishes)
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


def _last_line(said: Path) -> str:
    lines = said.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"


def _resident(process: int) -> int:
    """Memory of a process that is not paged out, in bytes; 0 where the system does not say."""
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=False)
    return 1024 * int(found.stdout) if found.returncode == 0 and found.stdout.strip().isdigit() else 0


def _cpu_seconds(process: int) -> float:
    """What a process has computed for, in all its threads; to the second where the system has no /proc."""
    figures = Path(f"/proc/{process}/stat")
    if figures.is_file():
        fields = figures.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found = subprocess.run(["ps", "-o", "time=", "-p", str(process)], capture_output=True, text=True, check=False)
    seconds = 0.0
    for part in found.stdout.strip().split(":"):
        seconds = 60 * seconds + float(part or 0)
    return seconds
