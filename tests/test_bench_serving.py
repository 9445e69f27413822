"""`mlx-diffusion bench --serve`: what clients of a server meet, from end to end, and what a wrong call is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import mlx.core as mx
import numpy as np
import pytest
from served import DEMO, TOKENIZER, say, served

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.cli.main import main
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.speed.clients import load, served_tasks
from mlx_diffusion.measure.speed.peer_folder import lay_out_for_peer
from mlx_diffusion.measure.speed.peer_server import telling
from mlx_diffusion.measure.speed.servers import check_prompts
from mlx_diffusion.tokenizer import load_tokenizer


def test_every_request_of_every_client_is_counted() -> None:
    with served() as running:
        port = int(str(running.http.base_url).rstrip("/").rpartition(":")[2])
        found = load(port, "demo", 2, 2, 16, mode="speculative")
        assert (found.clients, found.requests, found.lost) == (2, 4, 0) and found.unfairness >= 1
        assert 0 < found.first_text_seconds <= found.slowest_first_text_seconds <= found.seconds
        assert found.slowest_tokens_per_second <= found.tokens_per_second
        assert found.tokens > found.right > 0
        with pytest.raises(EvaluationError, match="has answered none of 2 requests"):
            load(port, "other", 1, 2, 16)


def test_a_server_is_started_measured_and_ended(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--serve", "--clients", "2", "--requests", "1", "--output-tokens", "4", "--mode", "speculative", "--json"]
    assert main(["bench", *argv]) == 0
    (own,) = json.loads(capsys.readouterr().out)["servers"]["mlx-diffusion"]
    assert own["clients"] == 2 and own["lost"] == 0 and own["memory_bytes"] > 1e7
    assert own["tokens"] == 8 and own["steps"] >= 0 and own["cpu_seconds"] > 0


def test_every_round_of_the_clients_is_of_one_kind() -> None:
    asked = served_tasks(3, 5)
    assert [[task.family for task in own] for own in asked] == [["copy", "sort", "to_json", "story", "copy"]] * 3
    assert len({task.messages[0]["content"] for own in asked for task in own}) == 15


def test_the_peer_is_given_the_same_words_and_weights(tmp_path: Path) -> None:
    lay_out_for_peer(DEMO, tmp_path)
    plain, laid_out = load_tokenizer(DEMO), load_tokenizer(tmp_path)
    in_parts = [{"role": "user", "content": [{"type": "text", "text": "Copy: fig ", "content": "x"}, {"text": "oak"}]}]
    template = jinja2.Environment().from_string((tmp_path / "chat_template.jinja").read_text())
    rendered = template.render(messages=in_parts, bos_token="<bos>", add_generation_prompt=True)
    assert laid_out.encode(rendered, add_special_tokens=False) == plain.encode_prompt(say("Copy: fig oak"), 1024)
    weights: list[Any] = [mx.load(str(folder / "model.safetensors")) for folder in (DEMO, tmp_path)]
    assert {array.dtype for array in weights[1].values()} == {mx.float32}
    assert all(mx.array_equal(array.astype(mx.float32), weights[1][name]) for name, array in weights[0].items())


def test_the_peer_says_what_an_answer_has_cost() -> None:
    def generate(*given: Any, on_result: Any, **more: Any) -> Iterator[str]:
        on_result(SimpleNamespace(diffusion_denoising_steps=0))
        assert on_result(SimpleNamespace(diffusion_denoising_steps=7)) == "go on" and more == {"x": 1}
        yield given[2]

    said: list[str] = []
    told = telling(generate, said.append)(0, 1, "text", np.array([[4, 5]]), on_result=lambda result: "go on", x=1)
    assert list(told) == ["text"] and said == ["\npeer prompt=4,5 steps=7\n"]


def test_other_prompts_than_ours_are_not_compared() -> None:
    checkpoint = Checkpoint.open(DEMO)
    fed = {tuple(TOKENIZER.encode_prompt(list(task.messages), 1024)) for own in served_tasks(2, 2) for task in own}
    check_prompts(fed, checkpoint, 2, 2)
    with pytest.raises(EvaluationError, match=r"makes another prompt of 'Copy: .* leave out --against"):
        check_prompts({(1, 2)}, checkpoint, 2, 2)


@pytest.mark.parametrize("more", [["--predict"], ["--synthetic", "published"], ["--layers", "2"]])
def test_what_no_server_has_is_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--serve", *more])
    assert ended.value.code == 2 and re.search(f"{more[0]} is not for --serve", capsys.readouterr().err)
