"""Connections that say nothing, or not in time: they are closed, and nobody waits for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from served import COPY, LIMITS, Served, served

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
