"""The server, asked by OpenAI's own client and by plain HTTP: its answers, bounds and refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from served import COPY, LIMITS, MODEL, SHALLOW, TOKENIZER, Served, httpx, openai, say, served, wait_until

from mlx_diffusion import generate
from mlx_diffusion.errors import DiffusionError, OptionError
from mlx_diffusion.events import Segment
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.serving.answers import Answers
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.jobs import Wish
from mlx_diffusion.serving.limits import Limits
from mlx_diffusion.serving.problems import RequestError
from mlx_diffusion.serving.server import Address
from mlx_diffusion.serving.turns import Thought, ToolCall, Turns

service, openai_routes, ollama_routes, anthropic_routes, exchange, requests = (
    pytest.importorskip(f"mlx_diffusion.serving.{name}")
    for name in "service openai_routes ollama_routes anthropic_routes exchange openai_requests".split()
)

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def quick() -> Iterator[Served]:
    """A server whose answers are not right, and each pass of which is short."""
    with served(model=SHALLOW) as running:
        yield running


@pytest.mark.parametrize(
    "options", [{"max_denoising_steps": 6}, {"mode": "speculative", "temperature": 0.8, "top_p": 0.9}]
)
def test_answers_are_those_of_generate_streamed_or_whole(quick: Served, options: dict[str, Any]) -> None:
    for messages in (COPY, say("Describe it in one line: a 🦊 and 3 oaks")):
        own = generate(SHALLOW, TOKENIZER, messages, seed=7, max_tokens=24, **options)
        body = {"messages": messages, "seed": 7, "max_tokens": 24, **options}
        whole = quick.post(**body).json()
        assert whole["choices"][0]["message"]["content"] == own
        chunks = quick.chunks(**body, stream_options={"include_usage": True})
        deltas = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
        assert "".join(deltas) == own
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0
        assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_openais_client_understands_both(server: Served) -> None:
    own = generate(MODEL, TOKENIZER, COPY)
    assert [model.id for model in server.openai.models.list()] == ["demo"]
    done = server.openai.chat.completions.create(model="demo", messages=COPY)
    assert done.choices[0].message.content == own and done.choices[0].finish_reason == "stop"
    assert done.usage is not None and done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    stream = server.openai.chat.completions.create(model="demo", messages=COPY, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == own
    with pytest.raises(openai.NotFoundError, match="is not served"):
        server.openai.chat.completions.create(model="/etc/passwd", messages=COPY)


def test_plain_completions_use_the_prompt_as_it_is(server: Served) -> None:
    prompt = TOKENIZER.apply_chat_template(COPY, add_generation_prompt=True)
    own = generate(MODEL, TOKENIZER, prompt)
    done = server.openai.completions.create(model="demo", prompt=[prompt, prompt], n=2)
    assert [choice.text for choice in done.choices][::2] == [own, own]
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert done.usage is not None and done.usage.prompt_tokens == 2 * len(prompt)


def test_further_choices_have_the_next_seeds(quick: Served) -> None:
    options: dict[str, Any] = {"mode": "autoregressive", "temperature": 2.0, "max_tokens": 20}
    got = quick.post(messages=COPY, n=3, seed=5, **options).json()["choices"]
    assert [choice["message"]["content"] for choice in got] == [
        generate(SHALLOW, TOKENIZER, COPY, seed=seed, **options) for seed in (5, 6, 7)
    ]


def test_eight_at_once_are_answered_as_if_alone(quick: Served) -> None:
    short: dict[str, Any] = {"max_tokens": 24, "max_denoising_steps": 3}
    written: dict[str, Any] = {"max_tokens": 12, "mode": "speculative"}
    prompts = [TOKENIZER.encode(f"{task}: fig oak ant {n}") for n, task in enumerate(["Copy", "Sort"] * 4)]
    options = [{**(written if number % 3 == 0 else short), "seed": number} for number in range(8)]

    def ask(place: int) -> str:
        got = quick.post("/v1/completions", prompt=prompts[place], **options[place]).json()
        return str(got["choices"][0]["text"])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    alone = [generate(SHALLOW, TOKENIZER, prompts[n], **options[n]) for n in range(8)]
    assert answers == alone and len(set(alone)) == 8


def test_thoughts_and_calls_are_apart_from_the_answer(server: Served) -> None:
    thought = server.post(messages=say("Add: 27 + 15"), enable_thinking=True).json()["choices"][0]["message"]
    assert thought["content"].strip() == "42" and thought["reasoning_content"]
    question = say("What is the weather in Oslo?")
    raw = generate(MODEL, TOKENIZER, question, tools=[TOOL])
    assert raw.startswith("<|tool_call>call:weather{")
    for body in ({}, {"stream": True}):
        done = server.openai.chat.completions.create(model="demo", messages=question, tools=[TOOL], **body)
        if body:
            found = [chunk.choices[0] for chunk in done]
            calls = [call for choice in found for call in choice.delta.tool_calls or []]
            assert found[-1].finish_reason == "tool_calls"
        else:
            calls = done.choices[0].message.tool_calls
            assert done.choices[0].finish_reason == "tool_calls" and done.choices[0].message.content is None
        assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
            ("weather", {"city": "Oslo"})
        ]


CALL = '<|tool_call>call:f{a:<|"|>x<|"|>,b:[1,2]}<tool_call|>'
TURNS: list[tuple[str, list[Any]]] = [
    (f"fig{CALL}oak", ["fig", ToolCall("f", {"a": "x", "b": [1, 2]}), "oak"]),
    ("<|channel>thought\nfig<channel|>oak", [Thought("fig"), "oak"]),
    *((raw, [raw]) for raw in (CALL[:-14], "<|tool_call>call:f{a:NaN}<tool_call|>", "<|tool_call>fig<tool_call|>")),
    (CROSSED := "<|tool_call>call:f{a:<|channel>x<channel|>}<tool_call|>oak", [CROSSED]),
]


@pytest.mark.parametrize("text, pieces", TURNS)
def test_a_turn_is_read_alike_in_whatever_parts_it_comes(text: str, pieces: list[Any]) -> None:
    settings = MODEL.generation_defaults.resolve(GenerationConfig())
    tokens = TOKENIZER.encode(text, add_special_tokens=False)
    for width in (1, 2, len(tokens)):
        reader, found = Turns(MODEL, TOKENIZER).begin([], settings), list[Any]()
        for start in range(0, len(tokens), width):
            found += reader.push(tokens[start : start + width], last=start + width >= len(tokens))
        joined = [found.pop(0)]
        for piece in found:
            if isinstance(piece, str) and isinstance(joined[-1], str):
                joined[-1] += piece
            else:
                joined.append(piece)
        assert joined == pieces


def test_likelihoods_belong_to_the_tokens_of_the_answer(server: Served) -> None:
    got = server.post(messages=COPY, mode="autoregressive", logprobs=True, top_logprobs=2).json()["choices"][0]
    entries = got["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == got["message"]["content"]
    assert all(entry["top_logprobs"][0]["logprob"] == entry["logprob"] <= 0 for entry in entries)  # greedy


def test_stop_strings_end_the_text(server: Served) -> None:
    got = server.post(messages=COPY, stop=" ant").json()["choices"][0]
    assert (got["message"]["content"], got["finish_reason"]) == ("fig oak", "stop")


def test_drafts_come_when_they_are_asked_for(server: Served) -> None:
    deltas = [chunk["choices"][0]["delta"] for chunk in server.chunks(messages=COPY, x_diffusion_drafts=True)]
    drafts = [delta["x-diffusion-draft"] for delta in deltas if "x-diffusion-draft" in delta]
    assert [draft["step"] for draft in drafts] == list(range(len(drafts))) and drafts[-1]["text"] == "fig oak ant"
    assert all(set(draft) == {"text", "committed", "block", "step", "entropy"} for draft in drafts)
    assert "x-diffusion-draft" not in json.dumps(server.chunks(messages=COPY))


BAD = [
    (400, {"messages": COPY, "temperature": 0.5}, "mode 'reference' has no option temperature; modes that have it"),
    (400, {"messages": COPY, "logprobs": True}, "mode 'reference' has no option logprobs"),
    (400, {"messages": COPY, "mode": "autoregressive", "entropy_bound": 1}, "has no option entropy_bound"),
    (400, {"messages": COPY, "frequency_penalty": 0.5}, "repetition_penalty is"),
    (400, {"messages": COPY, "chat_template": "{{ 1 }}"}, "chat_template is not known to this server"),
    (400, {"messages": COPY, "max_tokens": 501}, "501 tokens asked for; this server writes 500 at most"),
    (400, {"messages": COPY, "max_tokens": 5, "max_completion_tokens": 6}, "send one of them"),
    (400, {"messages": COPY, "max_tokens": "5"}, "max_tokens: input should be a valid integer"),
    (400, {"messages": COPY, "seed": 2**70}, "seed: input should be less than"),
    (400, {"messages": COPY, "seed": -1}, "seed: input should be greater than or equal to 0"),
    (400, {"messages": COPY, "max_denoising_steps": 10**12}, "max_denoising_steps: input should be less than"),
    (400, {"messages": COPY, "n": 9}, "n is 9; this server gives at most 8"),
    (400, {"messages": COPY, "stop": [""]}, "each must be a string of at least one character"),
    (400, {"messages": COPY, "x_diffusion_drafts": True}, "send stream: true"),
    (400, {"messages": COPY, "tool_choice": "required"}, "tool_choice"),
    (400, {"messages": []}, "messages is empty"),
    (400, {"messages": [{"role": "user"}]}, "message 1 has no content"),
    (400, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 1"),
    (400, {}, "messages is missing"),
    (404, {"messages": COPY, "model": "../demo"}, "is not served"),
    (413, {"messages": say("a" * 20_000)}, "more than 20,000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize("status, body, said", BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_is_refused_in_a_sentence(server: Served, status: int, body: dict[str, Any], said: str) -> None:
    got = server.post(**body)
    error = got.json()["error"]
    assert got.status_code == status and said in error["message"] and "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_bodies_that_are_no_requests_are_refused(server: Served) -> None:
    for body in (b"", b"{", b"[" * 9000, b'{"messages": "\xff"}', b"null", b'{"messages": [[]]}'):
        got = server.http.post("/v1/chat/completions", content=body)
        assert got.status_code == 400 and got.json()["error"]["message"].count("\n") == 0
    assert server.http.get("/v1/chat/completions").status_code == 405
    assert server.http.get("/etc/passwd").json()["error"]["type"] == "not_found_error"


def test_pages_of_other_origins_and_unknown_names_stay_outside(server: Served) -> None:
    own = str(server.http.base_url).rstrip("/")
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": ""}):
        assert server.http.get("/v1/models", headers=headers).status_code in (400, 403)
    two = [("Origin", own), ("Origin", "http://evil.example")]
    assert server.http.get("/v1/models", headers=two).status_code == 403
    for headers in ({"Origin": own}, {"Host": "localhost:99"}, {"Host": "[::1]:8080"}):
        got = server.http.get("/v1/models", headers=headers)
        assert got.status_code == 200 and not any(name.startswith("access-control") for name in got.headers)


def test_a_key_is_asked_for() -> None:
    with served(key="secret") as running:
        assert running.http.get("/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            got = running.http.get("/v1/models", headers=headers)
            assert got.status_code == 401 and "secret" not in got.text
        assert [model.id for model in running.openai.models.list()] == ["demo"]


def test_others_reach_the_server_only_where_that_is_meant() -> None:
    with pytest.raises(OptionError, match="add --api-key KEY"):
        Address("0.0.0.0")
    assert Address("0.0.0.0", key="k") and Address("::1") and Address("0.0.0.0", open_to_all=True)


def test_requests_are_counted_and_logged_without_their_contents(server: Served) -> None:
    got = server.http.post("/v1/chat/completions", json={"messages": COPY}, headers={"X-Request-Id": "mine"})
    assert got.headers["x-request-id"] == "mine"
    forged = server.http.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"]
    assert forged != "a b"
    wait_until(lambda: any(line.startswith("id=mine ") for line in server.log))
    line = next(line for line in server.log if line.startswith("id=mine "))
    assert "POST /v1/chat/completions 200" in line and "steps=" in line and "oak" not in "".join(server.log)
    metrics = server.http.get("/metrics").text
    assert 'mlx_diffusion_requests_total{route="/v1/chat/completions",status="200"}' in metrics
    assert 'route="other"' in metrics and "passwd" not in metrics


def test_what_begins_alike_is_encoded_once(quick: Served) -> None:
    question = say("Sort: " + " ".join(f"oak{number}" for number in range(20)))
    first, second = (quick.post(messages=question, max_tokens=8, mode="speculative").json() for _ in range(2))
    cached = [got["usage"]["prompt_tokens_details"]["cached_tokens"] for got in (first, second)]
    assert cached[0] < cached[1] == second["usage"]["prompt_tokens"] - 1  # the last one gives the first token
    assert first["choices"] == second["choices"]


NEVER = {str(token): -1e6 for token in MODEL.generation_defaults.eos_token_id or ()}
LONG: dict[str, Any] = {"mode": "autoregressive", "max_tokens": 500, "logit_bias": NEVER}  # it writes all of them


def test_a_client_that_leaves_takes_its_row_along(quick: Served) -> None:
    with quick.http.stream("POST", "/v1/chat/completions", json={"messages": COPY, "stream": True, **LONG}) as got:
        lines = filter(None, got.iter_lines())
        assert '"delta"' in [next(lines) for _ in range(2)][-1]  # its row is running
    wait_until(lambda: quick.gauge("mlx_diffusion_running_requests") == 0)
    written = [line for line in quick.log if line.endswith(" left")]
    assert len(written) == 1, "it was written to its end before the client left"
    with pytest.raises(httpx.ReadTimeout):
        quick.http.post("/v1/chat/completions", json={"messages": COPY, "n": 3, **LONG}, timeout=0.2)
    wait_until(lambda: quick.gauge("mlx_diffusion_running_requests") == 0)
    wait_until(lambda: " 499 " in quick.log[-1] or any(" 499 " in line for line in quick.log))


def test_a_dropped_row_is_gone_within_a_pass() -> None:
    engine = EngineThread(SHALLOW, TOKENIZER, LIMITS, 0, print)
    engine.start()

    async def ask_and_leave() -> int:
        settings = SHALLOW.generation_defaults.resolve(GenerationConfig(**LONG))
        with Answers(engine, [Wish(TOKENIZER.encode("Copy"), settings)] * 2) as answers:
            await anext(answers)
            before = engine.passes
        while engine.running:
            await asyncio.sleep(0)
        return engine.passes - before

    try:
        assert asyncio.run(ask_and_leave()) <= 2  # the pass under way at each of the two moments
    finally:
        engine.stop()


def test_too_many_requests_are_turned_away_and_late_ones_end() -> None:
    """The first is late while it is written, the second while it waits."""
    limits = Limits(max_requests=1, max_waiting=1, answer_seconds=1, max_tokens=100_000)
    body = {"messages": COPY, **LONG, "max_tokens": MODEL.config.max_position_embeddings - 100}
    with served(limits) as running, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(running.post, **body) for _ in range(2)]
        for kind in ("running", "waiting"):
            wait_until(lambda kind=kind: running.gauge(f"mlx_diffusion_{kind}_requests") == 1)
        refused = running.post(**body)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert "1 request is waiting already" in refused.json()["error"]["message"]
        assert [got.result().status_code for got in asked] == [504, 504]
        assert running.post(messages=COPY).status_code == 200


def test_what_fails_in_the_engine_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of NaN leaves the others of its passes be; where a whole pass fails, the server goes on."""
    engine = EngineThread(MODEL, TOKENIZER, LIMITS, 0, lambda line: None)
    settings = MODEL.generation_defaults.resolve(GenerationConfig(max_tokens=8))
    overflowing = replace(settings, t_min=0.0, t_max=1e-40)
    own = generate(MODEL, TOKENIZER, TOKENIZER.encode("Copy"), max_tokens=8)

    async def ask(wanted: Settings) -> str:
        try:
            with Answers(engine, [Wish(TOKENIZER.encode("Copy"), wanted)]) as answers:
                return "".join([step.text async for _, step in answers if isinstance(step, Segment)])
        except RequestError as error:
            return str(error)

    async def ask_both() -> list[str]:
        asked = [asyncio.create_task(ask(wanted)) for wanted in (settings, overflowing)]
        await asyncio.sleep(0)
        engine.start()  # both wait for it, so that they share their passes
        return await asyncio.gather(*asked)

    try:
        first, second = asyncio.run(ask_both())
        assert first == own and "NaN at block 0, step 0" in second
        with monkeypatch.context() as patch:
            patch.setattr(engine._engine, "advance", lambda: 1 / 0)
            assert "its log says why" in asyncio.run(ask(settings))
        assert asyncio.run(ask(settings)) == own
    finally:
        engine.stop()
    with pytest.raises(DiffusionError, match="about to end"):
        asyncio.run(_submit(engine, settings))


async def _submit(engine: EngineThread, settings: Settings) -> None:
    Answers(engine, [Wish([1], settings)])


def test_requests_under_way_finish_when_the_server_is_asked_to_end() -> None:
    body = {"messages": COPY, **LONG, "max_tokens": 200}
    with ThreadPoolExecutor(1) as pool:
        with served(model=SHALLOW) as running:
            asked = pool.submit(running.post, **body)
            wait_until(lambda: running.gauge("mlx_diffusion_running_requests") == 1)
        got = asked.result()
    assert got.status_code == 200 and got.json()["usage"]["completion_tokens"] > 0


def test_a_client_that_does_not_read_is_not_waited_for_without_end() -> None:
    async def hold(message: Any = None) -> Any:
        await asyncio.Event().wait()

    async def content() -> AsyncIterator[str]:
        yield "data"

    stream = exchange.AnswerStream(nullcontext(), content(), 0.05)
    asyncio.run(asyncio.wait_for(stream({"type": "http"}, hold, hold), 30))


@pytest.mark.parametrize("stream", [True, False])
def test_ollamas_requests_get_the_same_answers(server: Served, stream: bool) -> None:
    def lines(path: str, **body: Any) -> list[dict[str, Any]]:
        got = server.post(path, model="demo:latest", stream=stream, **body)
        assert got.status_code == 200
        return [json.loads(line) for line in got.text.splitlines()]

    own = generate(MODEL, TOKENIZER, COPY)
    found = lines("/api/chat", messages=COPY, options={"num_predict": -1, "num_ctx": 512})
    assert "".join(line["message"]["content"] for line in found) == own
    assert found[-1]["done"] and found[-1]["done_reason"] == "stop" and found[-1]["eval_count"] > 0
    assert "".join(line["response"] for line in lines("/api/generate", prompt=COPY[0]["content"])) == own
    raw = TOKENIZER.apply_chat_template(COPY, add_generation_prompt=True, tokenize=False).removeprefix("<bos>")
    assert "".join(line["response"] for line in lines("/api/generate", prompt=raw, raw=True)) == generate(
        MODEL, TOKENIZER, TOKENIZER.encode(raw)
    )
    called = lines("/api/chat", messages=say("What is the weather in Oslo?"), tools=[TOOL])
    calls = [call for line in called for call in line["message"].get("tool_calls", [])]
    assert calls == [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    thought = lines("/api/chat", messages=say("Add: 27 + 15"), think=True)
    assert "".join(line["message"].get("thinking", "") for line in thought)


def test_ollamas_requests_are_refused_in_its_form(server: Served) -> None:
    assert server.http.get("/api/tags").json()["models"][0]["name"] == "demo"
    assert server.http.get("/api/version").json()["version"]
    for body, status, said in (
        ({"model": "other", "messages": COPY}, 404, "is not served"),
        ({"model": "demo", "messages": COPY, "options": {"mirostat": 1}}, 400, "options.mirostat is not known"),
        ({"model": "demo", "messages": COPY, "options": {"num_ctx": 10**9}}, 400, "this model has a context of"),
        ({"model": "demo", "messages": [{**COPY[0], "images": ["aa"]}]}, 400, "images are not read"),
        ({"model": "demo", "messages": COPY, "format": "yaml"}, 400, "it must be json or a schema"),
    ):
        got = server.post("/api/chat", **body)
        assert got.status_code == status and said in got.json()["error"]


MESSAGES: dict[str, Any] = {"model": "demo", "max_tokens": 64}


def added_up(text: str) -> dict[str, Any]:
    """The message that a stream of Anthropic's events adds up to, as its own clients read it."""
    message: dict[str, Any] = {}
    for block in text.strip().split("\n\n"):
        name, data = (line.partition(": ")[2] for line in block.split("\n"))
        event = json.loads(data)
        assert event["type"] == name
        match name:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"] | {"json": ""})
            case "content_block_delta":
                delta, content = event["delta"], message["content"][event["index"]]
                kind = delta.pop("type")
                for key, value in delta.items():
                    content["json" if kind == "input_json_delta" else key] += value
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    for content in message["content"]:
        partial = content.pop("json")
        if partial:
            content["input"] = json.loads(partial)
    return message


def test_anthropics_requests_get_the_same_answers(server: Served) -> None:
    def both(**body: Any) -> dict[str, Any]:
        whole = server.post("/v1/messages", **MESSAGES, **body).json()
        stream = added_up(server.post("/v1/messages", stream=True, **MESSAGES, **body).text)
        for message in (whole, stream):
            message.pop("id")
            message.pop("usage")
            for content in message["content"]:
                content.pop("id", None)
        assert whole == stream
        return whole

    plain = both(messages=COPY)
    assert plain["content"] == [{"type": "text", "text": generate(MODEL, TOKENIZER, COPY)}]
    assert plain["stop_reason"] == "end_turn"
    stopped = both(messages=COPY, stop_sequences=["zzz", " ant"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " ant")
    tool = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}
    called = both(messages=say("What is the weather in Oslo?"), tools=[tool])
    assert called["content"] == [{"type": "tool_use", "name": "weather", "input": {"city": "Oslo"}}]
    assert called["stop_reason"] == "tool_use"
    thought = both(messages=say("Add: 27 + 15"), thinking={"type": "enabled"})
    assert [content["type"] for content in thought["content"]] == ["thinking", "text"]


def test_anthropics_requests_are_refused_in_its_form(server: Served) -> None:
    for body, status, kind in (
        ({"messages": COPY, "temperature": 1.0}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "invalid_request_error"),
        ({"messages": COPY, "model": "other"}, 404, "not_found_error"),
    ):
        got = server.post("/v1/messages", **{**MESSAGES, **body})
        assert got.status_code == status and got.json()["error"]["type"] == kind and got.json()["type"] == "error"
