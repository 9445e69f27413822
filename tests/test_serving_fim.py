"""Gaps over HTTP: the same text as `infill` in every interface's form, and what has no meaning said to be ignored."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from served import LIMITS, SHALLOW, TOKENIZER, Served, in_process, served

from mlx_diffusion import infill
from mlx_diffusion.events import Finish, Segment
from mlx_diffusion.filling.infilling import stream_infill
from mlx_diffusion.filling.long_gaps import NOTHING
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.jobs import Wish

gaps, service = (pytest.importorskip(f"mlx_diffusion.serving.{name}") for name in ("gaps", "service"))

PREFIX, SUFFIX = "Copy: fig ", " ant"  # in whose gap another seed, or another context, has another text
QUICK: dict[str, Any] = {"max_denoising_steps": 2, "max_tokens": 2, "seed": 2}
LLAMA: dict[str, Any] = {"max_denoising_steps": 2, "n_predict": 2, "seed": 2}  # the same, as llama.cpp spells it


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Gaps that nobody has learned to fill take all the steps that they may."""
    defaults = SHALLOW.generation_defaults
    SHALLOW.generation_defaults = replace(defaults, max_denoising_steps=6)
    yield
    SHALLOW.generation_defaults = defaults


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(
        model=SHALLOW, mode="speculative"
    ) as running:  # which has no canvas that could be filled: the reference does it
        yield running


def last_of(text: str) -> dict[str, Any]:
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    return dict(events[-1])


def fim_text(streamed: str) -> str:
    """The text of a stream in Mistral's form, whose last chunk says why it ends."""
    *chunks, done, nothing = streamed.split("\n\n")
    choices = [json.loads(chunk.removeprefix("data: "))["choices"][0] for chunk in chunks]
    assert (done, nothing) == ("data: [DONE]", "") and [one["finish_reason"] for one in choices].index("stop") >= 0
    return "".join(one["delta"]["content"] for one in choices)


def test_every_form_has_the_text_that_infill_gives(server: Served) -> None:
    own = infill(SHALLOW, TOKENIZER, PREFIX, SUFFIX, **QUICK)
    beside = infill(SHALLOW, TOKENIZER, PREFIX, SUFFIX, context="a.txt\noak", **QUICK)
    assert own not in (beside, infill(SHALLOW, TOKENIZER, PREFIX, SUFFIX, **QUICK | {"seed": 0}))
    sides = {"input_prefix": PREFIX[:3], "prompt": PREFIX[3:], "input_suffix": SUFFIX, **LLAMA}
    assert server.post("/infill", **sides).json()["content"] == own
    extra = [{"filename": "a.txt", "text": "oak", "time": 1764338400000}]  # as editors keep it
    assert server.post("/infill", input_extra=extra, **sides).json()["content"] == beside
    streamed = server.post("/infill", stream=True, **sides).text
    assert json.loads(streamed.split("\n\n")[0].removeprefix("data: "))["content"] == own and last_of(streamed)["stop"]
    body = {"prompt": PREFIX, "suffix": SUFFIX, "model": "demo"}
    for path, seed in (("/v1/fim/completions", {"random_seed": 2}), ("/v1/completions", {"seed": 2})):
        got = server.post(path, **body, **seed, max_denoising_steps=2, max_tokens=2).json()
        assert got["choices"][0]["text"] == own and got["usage"]["total_tokens"] > 0
    streamed = server.post("/v1/fim/completions", stream=True, **body, **QUICK).text
    assert fim_text(streamed) == own and last_of(streamed)["usage"]["total_tokens"] > 0
    echoed = server.post("/v1/completions", echo=True, n=2, **body, **QUICK).json()["choices"]
    assert echoed[0]["text"] == PREFIX + own and len(echoed) == 2
    options = {"seed": 2, "num_predict": 2, "temperature": 0.1}
    plain = server.post("/api/generate", stream=False, **body, options=options)
    assert plain.json()["ignored"] == ["temperature"]
    assert plain.json()["response"] == infill(SHALLOW, TOKENIZER, PREFIX, SUFFIX, seed=2, max_tokens=2)


def test_editors_are_told_what_was_ignored_and_given_what_they_ask_for(server: Served) -> None:
    sides = {"input_prefix": PREFIX, "input_suffix": SUFFIX, **LLAMA}
    sampling = {"samplers": ["top_k"], "top_k": 40, "n_indent": 2, "cache_prompt": True, "t_max_predict_ms": 1000}
    got = server.post("/infill", **sampling, **sides).json()
    assert set(got["ignored"]) == set(sampling) and got["tokens_predicted"] > 0
    asked = ["content", "timings/predicted_n", "timings/nothing"]
    assert set(server.post("/infill", response_fields=asked, **sides).json()) == set(asked[:2])
    assert server.post("/infill", n_predict=0, samplers=[]).json()["content"] == ""
    assert (
        server.post("/infill", **sides | {"max_denoising_steps": 1, "n_predict": 128}).status_code == 200
    )  # fewer than lengths are tried for
    assert server.post("/infill", stop=["\n", "zzz"], **sides).json()["content"] == got["content"].split("\n")[0]


def test_a_gap_over_several_canvases_has_the_text_that_infill_gives(tmp_path: Path) -> None:
    """As long as is asked for in all forms, and streamed canvas by canvas."""
    long: dict[str, Any] = {"max_denoising_steps": 1, "max_tokens": 24, "seed": 2}
    with in_process(tmp_path, LIMITS) as (client, model):
        events = list(stream_infill(model, TOKENIZER, PREFIX, SUFFIX, **long))
        texts = [event.text for event in events if isinstance(event, Segment) and event.text]
        own = "".join(texts)
        assert len(texts) > 2
        sides = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": 24, "seed": 2, "max_denoising_steps": 1}
        whole = client.post("/infill", json=sides).json()
        assert whole["content"] == own
        body = {"prompt": PREFIX, "suffix": SUFFIX, "model": "demo", **long}
        streamed = client.post("/v1/fim/completions", json=body | {"stream": True}).text
        assert fim_text(streamed) == own and streamed.count('"finish_reason": null') == len(texts)
        assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == own
        plain = {"model": "demo", "prompt": PREFIX, "suffix": SUFFIX, "stream": False}
        got = client.post("/api/generate", json=plain | {"options": {"num_predict": 10, "seed": 2}}).json()
        assert got["response"] == infill(model, TOKENIZER, PREFIX, SUFFIX, seed=2, max_tokens=10)
        stop = texts[0][1:3]
        stopped = client.post("/infill", json=sides | {"stop": [stop]}).json()
        assert stopped["content"] == own[: own.index(stop)]
        assert stopped["tokens_predicted"] < whole["tokens_predicted"]  # no canvas is written behind it


def test_the_first_stop_string_cuts_a_gap() -> None:
    parts, end = ["fig o", "ak", " an", "t"], Finish("stop", NOTHING)
    events = [Segment(block, (block,), text) for block, text in enumerate(parts)]
    for stops, text in (
        (["ant", "oak"], "fig "),
        (["zzz"], "fig oak ant"),
        ([], "fig oak ant"),
        (["tt"], "fig oak ant"),
    ):
        found = list(gaps.cut(iter([*events, end]), stops))
        assert "".join(event.text for event in found) == text and found[-1] is end


@pytest.mark.parametrize(
    "path, body, said",
    [
        ("/infill", {}, "no text on either side"),
        ("/infill", {"input_prefix": "a", "mode": "autoregressive"}, "holds no text in place"),
        ("/infill", {"input_prefix": "a", "grammar": "x"}, "grammar is not known"),
        ("/v1/fim/completions", {"prompt": "a", "seed": 1, "random_seed": 2}, "send one of them"),
        ("/v1/fim/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"prompt": [1, 2], "suffix": "a"}, "the prompt must be text"),
        ("/v1/fim/completions", {"prompt": "a", "max_tokens": 501}, "this server writes 500 at most"),
        ("/infill", {"input_prefix": "a", "n_predict": 501}, "this server writes 500 at most"),
        ("/infill", {"input_prefix": "fig " * 900, "n_predict": 500, "stream": True}, "leave room for a gap of"),
        ("/infill", {"input_prefix": "fig " * 2100, "stream": True}, "shorten the text"),
        ("/v1/completions", {"prompt": "a", "suffix": "a", "temperature": 0.5}, "has no option temperature"),
        ("/v1/completions", {"prompt": "a", "mode": "autoregressive", "echo": True, "logprobs": 1}, "leave echo or"),
        ("/v1/completions", {"prompt": "a", "suffix": "a", "constraint": {"regex": "a"}}, "a gap is held to no form"),
        (
            "/api/generate",
            {"model": "demo", "prompt": "a", "suffix": "a", "format": "json"},
            "a gap is held to no form",
        ),
        ("/v1/fim/completions", {"prompt": "a", "stream_options": {}}, "send stream: true"),
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


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_gap_whose_caller_leaves_is_let_go_within_a_pass(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EngineThread(SHALLOW, TOKENIZER, LIMITS, 0, print)
    gap = gaps.gap_wish(
        service.Service(engine, "demo", GenerationConfig()), "Copy: fig ", " ant", GenerationConfig(seed=1)
    )
    count, gone = engine._pause, threading.Event()
    answers: Any = None

    def leave() -> None:
        if engine.passes == after:
            answers._engine.drop(answers._jobs)
            gone.set()
        count()

    monkeypatch.setattr(engine, "_pause", leave)

    async def ask_and_leave() -> None:
        nonlocal answers
        answers = Answers(engine, [gap], wants_drafts=True)
        while not gone.is_set() or engine.running or engine.waiting:
            await asyncio.sleep(0.001)

    engine.start()
    try:
        asyncio.run(ask_and_leave())
        assert engine.passes == after
    finally:
        engine.stop()


def test_others_advance_between_the_passes_of_a_gap() -> None:
    engine = EngineThread(SHALLOW, TOKENIZER, LIMITS, 0, print)
    asked = service.Service(engine, "demo", GenerationConfig())
    gap = gaps.gap_wish(asked, "Copy: fig ", " ant", GenerationConfig(seed=1))
    settings = SHALLOW.generation_defaults.resolve(GenerationConfig(max_tokens=4, mode="autoregressive"))
    kinds: list[str] = []

    async def ask(wish: Wish, kind: str) -> None:
        with Answers(engine, [wish], wants_drafts=True) as answers:
            async for _, step in answers:
                kinds.append(f"{kind} {type(step).__name__}")

    async def ask_both() -> None:
        await asyncio.gather(ask(gap, "gap"), ask(Wish(TOKENIZER.encode("Copy: fig"), settings), "row"))

    engine.start()
    try:
        asyncio.run(ask_both())
        assert kinds.index("row Finish") < kinds.index("gap Segment")
    finally:
        engine.stop()


def test_a_gap_does_not_wait_for_the_parts_of_a_long_prompt() -> None:
    """It has eight passes to each of them."""
    engine = EngineThread(SHALLOW, TOKENIZER, LIMITS, 0, print)
    asked = service.Service(engine, "demo", GenerationConfig())
    gap = gaps.gap_wish(asked, "Copy: fig ", " ant", GenerationConfig(max_tokens=4, max_denoising_steps=3))
    options = GenerationConfig(max_tokens=1, mode="autoregressive", prefill_step_size=16)
    kinds: list[str] = []

    async def ask(wish: Wish, kind: str) -> None:
        with Answers(engine, [wish]) as answers:
            async for _, step in answers:
                kinds.append(f"{kind} {type(step).__name__}")

    async def ask_both() -> int:
        long = asyncio.create_task(ask(Wish([5] * 1600, SHALLOW.generation_defaults.resolve(options)), "long"))
        while "long Prefill" not in kinds:
            await asyncio.sleep(0)
        before, passes = kinds.count("long Prefill"), engine.passes
        await ask(gap, "gap")
        parts = kinds.count("long Prefill") - before
        assert parts <= 2 + (engine.passes - passes) // 8
        await long
        return parts

    engine.start()
    try:
        assert asyncio.run(ask_both()) < 5 < kinds.count("long Prefill")
    finally:
        engine.stop()
