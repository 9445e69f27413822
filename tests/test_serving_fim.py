"""Gaps over HTTP: the same text as `infill` in every interface's form, and what has no meaning said to be ignored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from served import LIMITS, MODEL, TOKENIZER, Served, served

from mlx_diffusion import infill, stream_infill
from mlx_diffusion.events import Segment
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.jobs import Wish

gaps = pytest.importorskip("mlx_diffusion.serving.gaps")

PREFIX, SUFFIX = "The fox ", " the oak."
QUICK: dict[str, Any] = {"max_denoising_steps": 6, "seed": 3}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(mode="speculative") as running:  # which has no canvas that could be filled: the reference does it
        yield running


def last_of(text: str) -> dict[str, Any]:
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    return dict(events[-1])


def test_every_form_has_the_text_that_infill_gives(server: Served) -> None:
    own = infill(MODEL, TOKENIZER, PREFIX, SUFFIX, **QUICK)
    beside = infill(MODEL, TOKENIZER, PREFIX, SUFFIX, context="a.txt\noak", **QUICK)
    sides = {"input_prefix": PREFIX[:3], "prompt": PREFIX[3:], "input_suffix": SUFFIX, **QUICK}
    assert server.post("/infill", **sides).json()["content"] == own
    extra = [{"filename": "a.txt", "text": "oak"}]
    assert server.post("/infill", input_extra=extra, **sides).json()["content"] == beside
    streamed = server.post("/infill", stream=True, **sides).text
    assert json.loads(streamed.split("\n\n")[0].removeprefix("data: "))["content"] == own and last_of(streamed)["stop"]
    body = {"prompt": PREFIX, "suffix": SUFFIX, "model": "demo"}
    for path, seed in (("/v1/fim/completions", {"random_seed": 3}), ("/v1/completions", {"seed": 3})):
        got = server.post(path, **body, **seed, max_denoising_steps=6).json()
        assert got["choices"][0]["text"] == own and got["usage"]["total_tokens"] > 0
    streamed = server.post("/v1/fim/completions", stream=True, **body, **QUICK).text
    assert last_of(streamed)["choices"][0]["delta"]["content"] == own and streamed.endswith("[DONE]\n\n")
    echoed = server.post("/v1/completions", echo=True, n=2, **body, **QUICK).json()["choices"]
    assert echoed[0]["text"] == PREFIX + own and len(echoed) == 2
    plain = server.post("/api/generate", stream=False, **body, options={"seed": 3, "temperature": 0.1}).json()
    assert plain["response"] == infill(MODEL, TOKENIZER, PREFIX, SUFFIX, seed=3) and plain["ignored"] == ["temperature"]


def test_editors_are_told_what_was_ignored_and_given_what_they_ask_for(server: Served) -> None:
    sides = {"input_prefix": PREFIX, "input_suffix": SUFFIX, **QUICK}
    sampling = {"samplers": ["top_k"], "top_k": 40, "n_indent": 2, "cache_prompt": True, "t_max_predict_ms": 1000}
    got = server.post("/infill", n_predict=128, **sampling, **sides).json()
    assert set(got["ignored"]) == set(sampling) and got["tokens_predicted"] > 0
    asked = ["content", "timings/predicted_n", "timings/nothing"]
    assert set(server.post("/infill", response_fields=asked, **sides).json()) == set(asked[:2])
    assert server.post("/infill", n_predict=0, samplers=[]).json()["content"] == ""
    assert (
        server.post("/infill", **sides | {"max_denoising_steps": 1}).status_code == 200
    )  # fewer than lengths are tried for
    assert server.post("/infill", stop=["\n", "zzz"], **sides).json()["content"] == got["content"].split("\n")[0]


def test_the_first_stop_string_cuts_a_gap() -> None:
    segment = Segment(0, (1,), "fig oak ant")
    for stops, text in ((["ant", "oak"], "fig "), (["zzz"], "fig oak ant"), ([], "fig oak ant")):
        assert [event.text for event in gaps.cut(iter([segment]), stops)] == [text]


@pytest.mark.parametrize(
    "path, body, said",
    [
        ("/infill", {}, "no text on either side"),
        ("/infill", {"input_prefix": "a", "mode": "autoregressive"}, "holds no text in place"),
        ("/infill", {"input_prefix": "a", "grammar": "x"}, "grammar is not known"),
        ("/v1/fim/completions", {"prompt": "a", "seed": 1, "random_seed": 2}, "send one of them"),
        ("/v1/fim/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"prompt": [1, 2], "suffix": "a"}, "the prompt must be text"),
        ("/v1/completions", {"prompt": "a", "suffix": "a", "temperature": 0.5}, "has no option temperature"),
        ("/v1/completions", {"prompt": "a", "mode": "autoregressive", "echo": True, "logprobs": 1}, "leave echo or"),
        ("/api/generate", {"model": "demo", "prompt": "a", "suffix": "a", "system": "b"}, "without system"),
    ],
)
def test_gaps_that_cannot_be_filled_are_refused(server: Served, path: str, body: dict[str, Any], said: str) -> None:
    got = server.post(path, **body)
    error = got.json()["error"]
    assert got.status_code == 400 and said in (error if isinstance(error, str) else error["message"])


def test_a_plain_completion_can_begin_with_its_prompt(server: Served) -> None:
    tokens = TOKENIZER.encode("Copy: fig")
    whole = server.post("/v1/completions", prompt=tokens, echo=True, max_tokens=4).json()["choices"][0]["text"]
    rest = server.post("/v1/completions", prompt=tokens, max_tokens=4).json()["choices"][0]["text"]
    assert whole == TOKENIZER.decode(tokens) + rest


def test_a_gap_whose_caller_leaves_is_let_go_within_a_step() -> None:
    engine = EngineThread(MODEL, TOKENIZER, LIMITS, 0, print)
    settings = MODEL.generation_defaults.resolve(GenerationConfig())
    closed = list[bool]()

    def endless() -> Iterator[Any]:
        try:
            while True:
                yield next(iter(stream_infill(MODEL, TOKENIZER, "fig", "ant", gap_tokens=1, max_denoising_steps=1)))
        finally:
            closed.append(True)

    async def ask_and_leave() -> int:
        with Answers(engine, [Wish([1], settings, work=endless())], wants_drafts=True) as answers:
            await anext(answers)
            before = engine.passes
        while engine.running:
            await asyncio.sleep(0)
        return engine.passes - before

    engine.start()
    try:
        assert asyncio.run(ask_and_leave()) <= 2 and closed
    finally:
        engine.stop()
