"""Connections that say nothing, or not in time, and those that are open when the server ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from served import COPY, LIMITS, MODEL, Served, served, wait_until

from mlx_diffusion.serving.limits import Limits

connections = pytest.importorskip("mlx_diffusion.serving.connections")

HALF = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as running:
        yield running


def joined(stack: ExitStack, server: Served, sent: bytes = b"") -> socket.socket:
    url = server.http.base_url
    made = stack.enter_context(socket.create_connection((url.host, url.port), timeout=10))
    made.sendall(sent)
    return made


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:  # with something unread
        return True


def test_connections_without_a_request_crowd_out_nobody(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_WITHOUT", 3)
    with ExitStack() as stack:
        silent = [joined(stack, server, sent) for sent in (b"", HALF) * 4]
        assert all(is_closed(made) for made in silent[:5])
        assert server.post(messages=COPY, max_tokens=2).status_code == 200
        silent[-1].sendall(b"\r\n")
        assert silent[-1].recv(12) == b"HTTP/1.1 200"


def test_the_head_of_a_request_must_come_in_time(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with ExitStack() as stack:
        slow, kept = joined(stack, server, HALF), joined(stack, server, HALF + b"\r\n")
        assert is_closed(slow)
        assert kept.recv(9999).startswith(b"HTTP/1.1 200")
        kept.sendall(HALF)  # of a second request
        assert is_closed(kept)


def test_a_body_that_is_said_to_be_too_long_is_not_waited_for(server: Served) -> None:
    head = f"POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LIMITS.max_bytes + 1}\r\n\r\n"
    with ExitStack() as stack:
        assert joined(stack, server, head.encode()).recv(12) == b"HTTP/1.1 413"


def test_an_answer_that_the_end_of_the_server_cuts_off_says_so() -> None:
    stops = {str(token): -1e6 for token in MODEL.generation_defaults.eos_token_id or ()}
    long: dict[str, Any] = {"messages": COPY, "mode": "autoregressive", "max_tokens": 1900, "n": 8, "logit_bias": stops}
    with ThreadPoolExecutor(2) as pool:
        with served(Limits(grace_seconds=1, max_requests=2)) as running:
            whole, streamed = (pool.submit(running.post, **long, stream=stream) for stream in (False, True))
            wait_until(lambda: running.gauge("mlx_diffusion_waiting_requests") == 14)
        assert whole.result().status_code == 503 and whole.result().json()["error"]["code"] == "ending"
        assert '"code": "ending"' in streamed.result().text.splitlines()[-2]
    assert [line for line in running.log if " 503 " in line or line.endswith("failed=503")] == running.log[-2:]
