"""`mlx-diffusion bench --serve`: what clients of a server meet, from end to end, and what a wrong call is told."""

from __future__ import annotations

import json
import re

import pytest
from served import served

from mlx_diffusion.cli.main import main
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.speed.clients import load


def test_every_request_of_every_client_is_counted() -> None:
    with served() as running:
        port = int(str(running.http.base_url).rstrip("/").rpartition(":")[2])
        found = load(port, "demo", 2, 2, 16, mode="speculative")
        assert (found.clients, found.requests, found.lost) == (2, 4, 0) and found.unfairness >= 1
        assert 0 < found.first_text_seconds <= found.slowest_first_text_seconds <= found.seconds
        assert found.slowest_tokens_per_second <= found.tokens_per_second
        with pytest.raises(EvaluationError, match="has answered none of 2 requests"):
            load(port, "other", 1, 2, 16)


def test_a_server_is_started_measured_and_ended(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--serve", "--clients", "2", "--requests", "1", "--output-tokens", "4", "--mode", "speculative", "--json"]
    assert main(["bench", *argv]) == 0
    (own,) = json.loads(capsys.readouterr().out)["servers"]["mlx-diffusion"]
    assert own["clients"] == 2 and own["lost"] == 0 and own["memory_bytes"] > 1e7


@pytest.mark.parametrize("more", [["--predict"], ["--synthetic", "published"], ["--layers", "2"]])
def test_what_no_server_has_is_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--serve", *more])
    assert ended.value.code == 2 and re.search(f"{more[0]} is not for --serve", capsys.readouterr().err)
