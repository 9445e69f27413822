"""Writing by the encoder's choices: as Transformers writes, and the same tokens whatever is drafted and beside whom."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion import OptionError, PrefixStore, PromptError, generate, stream_generate
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER, Checkpoint
from mlx_diffusion.engine.causal_row import CausalRow
from mlx_diffusion.engine.choice import choose
from mlx_diffusion.engine.drafting import DraftMemory
from mlx_diffusion.engine.engine import Engine, run
from mlx_diffusion.engine.noise import PositionNoise, SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.events import Draft, Event, Finish, Segment
from mlx_diffusion.loading import load, load_model
from mlx_diffusion.measure.tasks import FAMILIES, draw
from mlx_diffusion.modes import CAUSAL, MODES
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer

GREEDY = json.loads((FIXTURES / "greedy.json").read_text())
STRICT = Path(__file__).parent.parent / "training" / "weights" / "strict"
EXAMPLES = int(os.environ.get("CAUSAL_EXAMPLES", "25"))  # prompts of each kind of checkpoint; 500 for a long run
ENOUGH = 16  # of the recorded tokens
CHAT = [{"role": "user", "content": "Copy: fig oak ant hen rye"}]


@cache
def loaded(folder: Path) -> tuple[DiffusionGemma, Tokenizer]:
    """The strict twin has the bundled checkpoint's tokenizer, and no copy of it."""
    return (load_model(Checkpoint.open(folder)), loaded(DEMO_FOLDER)[1]) if folder == STRICT else load(folder)


def write(folder: Path, prompt: Any, **options: Any) -> tuple[list[int], str, list[Event]]:
    events = list(stream_generate(*loaded(folder), prompt, **options))
    segments = [event for event in events if isinstance(event, Segment)]
    return [token for one in segments for token in one.tokens], "".join(event.text for event in events), events


def write_together(
    folder: Path, wishes: Sequence[tuple[Sequence[int], dict[str, Any]]]
) -> list[tuple[list[int], str, str]]:
    """Tokens, text and reason of the end of each prompt with its options: rows of one run."""
    model, tokenizer = loaded(folder)
    requests = []
    for prompt, options in wishes:
        settings = model.generation_defaults.resolve(GenerationConfig(**options))
        requests.append(Request(tuple(prompt), settings, SeededDraws.of(settings.seed, model.config.vocab_size)))
    tokens: list[list[int]] = [[] for _ in requests]
    texts, reasons = [""] * len(requests), [""] * len(requests)
    for event in run(model, tokenizer, requests):
        texts[event.row] += event.text
        if isinstance(event, Segment):
            tokens[event.row] += event.tokens
        elif isinstance(event, Finish):
            reasons[event.row] = event.finish_reason
    return list(zip(tokens, texts, reasons, strict=True))


def finish(events: Sequence[Event]) -> Finish:
    assert isinstance(events[-1], Finish)
    return events[-1]


def chosen(folder: Path, prompt: Sequence[int], text: Sequence[int], **options: Any) -> list[int]:
    """The plain twin: the whole text encoded at once without a cache, and a choice behind each place, one by one."""
    model, _ = loaded(folder)
    own = model.generation_defaults.resolve(GenerationConfig(mode="autoregressive", **options))
    noise = PositionNoise(SeededDraws.of(own.seed, model.config.vocab_size), model.config.vocab_size)
    whole = [*prompt, *text]
    logits = model.unembed(model.encode([Passage(mx.array(whole[:-1], dtype=mx.int32), model.make_cache())]))
    found = []
    for place in range(len(prompt), len(whole)):
        drawn = noise.at(place, 1) if own.temperature else None
        found += np.array(choose(logits[place - 1 : place], own, drawn, [whole[:place]]).tokens).tolist()
    ends = [place for place, token in enumerate(text, start=1) if token in own.eos_token_id]
    assert len(text) == min([own.max_tokens, *ends])
    return found


@cache
def greedy(checkpoint: str) -> list[list[int]]:
    """What every recorded prompt of a checkpoint is continued with in each of the modes, all as rows of one run."""
    wishes = []
    for mode in CAUSAL:
        for one in (one for one in GREEDY if one["checkpoint"] == checkpoint):
            options = {"repetition_penalty": one["penalty"], "repetition_context_size": 1000, "eos_token_id": ()}
            wishes.append((one["prompt"], {"mode": mode, "max_tokens": ENOUGH, **options}))
    found = write_together(DEMO_FOLDER if checkpoint == "demo" else FIXTURES / checkpoint, wishes)
    return [tokens for tokens, *_ in found]


@pytest.mark.parametrize("one", GREEDY, ids=lambda one: f"{one['checkpoint']}-{len(one['prompt'])}-{one['penalty']}")
def test_greedy_tokens_are_those_of_transformers(one: dict[str, Any]) -> None:
    others = [other for other in GREEDY if other["checkpoint"] == one["checkpoint"]]
    rows = greedy(one["checkpoint"])[others.index(one) :: len(others)]
    assert rows == [one["tokens"][:ENOUGH]] * len(CAUSAL)


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.0, 3.0]),
        "seed": st.integers(0, 3),
        "max_tokens": st.integers(1, 24),
    },
    optional={
        "top_p": st.sampled_from([0.5, 0.9]),
        "top_k": st.integers(1, 90),
        "min_p": st.sampled_from([0.01, 0.3]),
        "repetition_penalty": st.sampled_from([0.7, 1.2, 3.0]),
        "repetition_context_size": st.integers(1, 40),
        "logit_bias": st.dictionaries(st.integers(0, 90), st.floats(-9, 9, width=32), max_size=3),
        "eos_token_id": st.just(()),
        "prefill_step_size": st.sampled_from([5, 16]),
    },
)
DRAFTS = st.fixed_dictionaries({}, optional={"draft_width": st.integers(1, 16), "draft_steps": st.integers(1, 2)})


@pytest.mark.parametrize("folders", [(FIXTURES / "hub",), (DEMO_FOLDER, STRICT)], ids=["hub", "toys"])
@given(length=st.integers(1, 40), shape=st.integers(0, 99), options=OPTIONS, drafts=DRAFTS)
@settings(deadline=None, max_examples=EXAMPLES)
def test_drafts_change_no_token(
    folders: Sequence[Path], length: int, shape: int, options: dict[str, Any], drafts: dict[str, int]
) -> None:
    folder = folders[shape % len(folders)]
    prompt = np.random.default_rng(shape).integers(3, 90, length).tolist()
    prompt += prompt[: shape % 7]  # something to be found again
    ways = ({"mode": "autoregressive", **options}, {"mode": "speculative", **options, **drafts})
    plain, drafted = write_together(folder, [(prompt, way) for way in ways])
    assert drafted == plain
    assert plain[0] == chosen(folder, prompt, plain[0], **options)


@pytest.mark.parametrize(("family", "bound"), [("to_json", 0.3), ("shuffle", 1.1), ("story", 0.5)])
@pytest.mark.parametrize("folder", [DEMO_FOLDER, STRICT], ids=["demo", "strict"])
def test_drafts_pay_and_change_nothing_on_what_the_toys_know(folder: Path, family: str, bound: float) -> None:
    """Determined text comes in few passes, and what cannot be foreseen in hardly more than one a token."""
    model, tokenizer = loaded(folder)
    rng, drafts, passes = Random(family), DraftMemory(), 0
    prompts, plain = [], []
    for number in range(4):
        messages = list(draw(FAMILIES[family], rng, "held_out").messages)
        prompts.append(tokenizer.encode_prompt(messages, model.config.vocab_size))
        plain.append({"mode": "autoregressive", "max_tokens": 40, "seed": number, "temperature": float(number % 2)})
    texts = write_together(folder, list(zip(prompts, plain, strict=True)))
    for prompt, options, (tokens, text, _) in zip(prompts, plain, texts, strict=True):
        *drafted, events = write(folder, prompt, **options | {"mode": "speculative"}, drafts=drafts)
        assert drafted == [tokens, text]
        passes += finish(events).stats.passes
    assert passes <= bound * sum(len(tokens) for tokens, *_ in texts)


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 9)), min_size=2, max_size=5), st.booleans())
@settings(deadline=None, max_examples=12)
def test_rows_of_all_modes_write_beside_each_other_what_they_write_alone(
    rows: list[tuple[int, int]], runs_ahead: bool
) -> None:
    model, tokenizer = loaded(DEMO_FOLDER)
    engine, waiting, passes = Engine(model, tokenizer), sorted(rows, key=lambda row: row[1]), 0
    engine.runs_ahead = runs_ahead
    found: dict[int, tuple[int, list[Event]]] = {}
    while waiting or engine:
        while waiting and waiting[0][1] <= passes:
            number, _ = waiting.pop(0)
            found[engine.add(request_number(number))] = (number, [])
        for event in engine.advance():
            found[event.row][1].append(event)
        passes += 1
    for number, events in found.values():
        assert outline(events) == alone(number)


def request_number(number: int) -> Request:
    model, tokenizer = loaded(DEMO_FOLDER)
    mode = (MODES[0], *CAUSAL)[number % 3]
    short = {"max_denoising_steps": 2, "canvas_length": 8}
    options: dict[str, Any] = short if mode == "reference" else {"temperature": (0.0, 1.0)[number % 2]}
    own = model.generation_defaults.resolve(GenerationConfig(mode=mode, max_tokens=5 + number, seed=number, **options))
    prompt = tokenizer.encode_prompt([{"role": "user", "content": "Story: Katan and the fox"}], model.config.vocab_size)
    return Request(tuple(prompt[: len(prompt) - number]), own, SeededDraws.of(number, model.config.vocab_size))


def outline(events: Sequence[Event]) -> list[Any]:
    """What does not depend on the clock."""
    texts = [(event.block, event.tokens, event.text) for event in events if isinstance(event, Segment)]
    stats = finish(events).stats
    drafts = [event.argmax.tolist() for event in events if isinstance(event, Draft)]
    return [texts, drafts, finish(events).finish_reason, stats.passes, stats.drafted_tokens, stats.accepted_tokens]


@cache
def alone(number: int) -> list[Any]:
    return outline(list(run(*loaded(DEMO_FOLDER), [request_number(number)])))


def test_a_penalty_counts_what_is_drafted_earlier_in_the_same_pass() -> None:
    """Of two tokens, the likelier one loses where the other has come last: at every place of a draft."""
    model, tokenizer = loaded(FIXTURES / "hub")
    wishes = GenerationConfig(mode="speculative", repetition_penalty=2.0, repetition_context_size=1)
    settings = model.generation_defaults.resolve(wishes)
    row = CausalRow(0, Request((5,), settings, SeededDraws.of(0, model.config.vocab_size)), model, tokenizer)
    row.guesses = [8, 9, 8, 6]
    logits = mx.zeros((5, model.config.vocab_size))
    logits[:, 8], logits[:, 9] = 4.0, 3.0
    assert np.array(row.choose(logits).tokens).tolist() == [8, 9, 8, 9, 8]


def test_figures_count_what_ran() -> None:
    """A draft of everything that is agreed with takes a step and a pass; token by token takes a pass each."""
    _, _, events = write(DEMO_FOLDER, [5, 6, 7], mode="autoregressive", max_tokens=9, eos_token_id=())
    stats = finish(events).stats
    assert (stats.generated_tokens, stats.passes, stats.blocks, stats.denoising_steps) == (9, 8, 8, 0)
    assert (stats.encoder_positions, stats.decoder_positions, stats.drafted_tokens) == (3 + 8, 0, 0)
    _, _, events = write(DEMO_FOLDER, [5, 6, 7], mode="speculative", max_tokens=9, eos_token_id=(), draft_width=8)
    stats = finish(events).stats
    drafts = [event for event in events if isinstance(event, Draft)]
    assert stats.denoising_steps == len(drafts) > 0
    assert stats.decoder_positions == 8 * len(drafts)
    assert stats.drafted_tokens == sum(draft.accepted.sum() for draft in drafts)
    assert stats.encoder_positions == 3 + stats.blocks + stats.drafted_tokens
    assert stats.passes == stats.blocks + len(drafts) - 1, "the first draft is made beside the prompt, in its pass"
    assert stats.generated_tokens == 1 + stats.blocks + stats.accepted_tokens
    for draft in drafts:  # the first one foresees the first token, too; the others begin with one that is final
        count = 8 if draft is drafts[0] else 7
        assert draft.canvas.shape == draft.argmax.shape == draft.accepted.shape == draft.entropy.shape == (count,)


def test_a_prefix_store_saves_what_was_encoded_and_changes_nothing() -> None:
    model, tokenizer = loaded(DEMO_FOLDER)
    prompt = tokenizer.encode_prompt(CHAT, model.config.vocab_size)
    for mode in ("autoregressive", "speculative"):
        store = PrefixStore(model, 10**9)
        first, *_ = write(DEMO_FOLDER, prompt, mode=mode, prefixes=store)
        again, _, events = write(DEMO_FOLDER, prompt, mode=mode, prefixes=store)
        assert again == first
        assert finish(events).stats.cached_tokens == len(prompt) - 1  # its last token's choice is the first new one
        longer = [*prompt, *first, 5, 6, 7]
        went_on, _, events = write(DEMO_FOLDER, longer, mode=mode, prefixes=store)
        assert finish(events).stats.cached_tokens >= len(prompt) + len(first) - 1
        assert went_on == write(DEMO_FOLDER, longer, mode=mode)[0]


def test_a_stop_string_ends_the_text_in_every_mode() -> None:
    for mode in ("reference", "autoregressive", "speculative"):
        _, whole, _ = write(DEMO_FOLDER, CHAT, mode=mode)
        stop = whole[3:5]
        _, text, events = write(DEMO_FOLDER, CHAT, mode=mode, stop=["no such text", stop])
        assert text == whole[: whole.find(stop)]
        assert finish(events).finish_reason == "stop"
        assert write(DEMO_FOLDER, CHAT, mode=mode, stop=whole + "more")[1] == whole


def test_likelihoods_are_given_with_every_token() -> None:
    model, tokenizer = loaded(DEMO_FOLDER)
    plain = {}
    for mode in ("autoregressive", "speculative"):
        tokens, _, events = write(DEMO_FOLDER, CHAT, mode=mode, logprobs=3, temperature=1.0, top_k=2)
        records = [record for event in events if isinstance(event, Segment) for record in event.logprobs]
        assert [record.token for record in records] == tokens
        for record in records:
            assert len(record.top) == 3
            assert [value for _, value in record.top] == sorted((value for _, value in record.top), reverse=True)
            assert dict(record.top)[record.token] == record.logprob  # top_k = 2
        plain[mode] = records
    assert plain["autoregressive"] == plain["speculative"]
    prompt = tokenizer.encode_prompt(CHAT, model.config.vocab_size)
    logits = model.unembed(model.encode([Passage(mx.array(prompt), model.make_cache())])[-1:])
    logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[0]
    first = plain["autoregressive"][0]
    assert first.logprob == logprobs[first.token]
    *_, (bare, *_) = write(DEMO_FOLDER, CHAT, mode="autoregressive", logprobs=0)
    assert isinstance(bare, Segment) and bare.logprobs[0].top == ()


def test_the_context_ends_a_text() -> None:
    model, tokenizer = load(FIXTURES / "hub")
    context = 1003
    model.config = replace(model.config, max_position_embeddings=context)
    prompt = (np.arange(context - 3) % 80 + 5).tolist()
    for mode in CAUSAL:
        events = list(stream_generate(model, tokenizer, prompt, mode=mode, max_tokens=99, eos_token_id=()))
        assert sum(len(event.tokens) for event in events if isinstance(event, Segment)) == 3
        assert finish(events).finish_reason == "context"
        with pytest.raises(PromptError, match=f"{context - 1:,}"):
            generate(model, tokenizer, [*prompt, 5, 5, 5], mode=mode)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "quick"}, "reference, balanced, fast, autoregressive, speculative"),
        ({"temperature": 1.0}, "autoregressive, speculative"),
        ({"mode": "reference", "top_k": 4}, "'reference' has no option top_k"),
        ({"mode": "autoregressive", "t_min": 0.3}, "modes that have it: reference"),
        ({"mode": "autoregressive", "draft_width": 3}, "modes that have it: speculative"),
        ({"mode": "speculative", "canvas_length": 3}, "modes that have it: reference"),
        ({"mode": "speculative", "temperature": -0.1}, "temperature"),
        ({"mode": "speculative", "temperature": float("nan")}, "temperature"),
        ({"mode": "speculative", "temperature": 1e-40}, "must be 0, which"),
        ({"mode": "reference", "t_min": 0.0, "t_max": 1e-40}, "t_max"),
        ({"mode": "speculative", "repetition_penalty": 1e-40}, "repetition_penalty"),
        ({"mode": "speculative", "top_p": 0}, "top_p"),
        ({"mode": "speculative", "top_p": 1.01}, "top_p"),
        ({"mode": "speculative", "min_p": 2}, "min_p"),
        ({"mode": "speculative", "top_k": -1}, "top_k"),
        ({"mode": "speculative", "repetition_penalty": 0}, "repetition_penalty"),
        ({"mode": "speculative", "draft_width": 65}, "canvases of at most 64"),
        ({"mode": "speculative", "draft_width": 0}, "draft_width"),
        ({"mode": "speculative", "logit_bias": {5000: 1.0}}, "5000"),
        ({"mode": "speculative", "logit_bias": {5: "much"}}, "logit_bias"),
        ({"mode": "speculative", "logprobs": 5000}, "logprobs"),
        ({"stop": ""}, "stop"),
        ({"stop": [3]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
    ],
    ids=str,
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        generate(*loaded(DEMO_FOLDER), CHAT, **options)
    if "mode" in options and options["mode"] != "reference":
        with pytest.raises(OptionError, match="no rule of acceptance"):
            generate(
                *loaded(DEMO_FOLDER), CHAT, mode="speculative", acceptance=lambda entropy, probability: entropy < 1
            )
