"""Whole runs: token for token against Transformers, and what a stream promises."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, ReferenceRun, Tape
from test_tokenizer import write_gemma_like
from transformers import PreTrainedTokenizerFast

from mlx_diffusion import generation
from mlx_diffusion.errors import CheckpointError, OptionError, PromptError
from mlx_diffusion.events import Draft, Event, Finish, Segment
from mlx_diffusion.generation import generate, stream_generate
from mlx_diffusion.loading import load
from mlx_diffusion.network import attention, transformer
from mlx_diffusion.network.head import Survey
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage, Seen, View
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

HUB = FIXTURES / "hub"
CANVAS = 16
PROMPT = [20, 21, 22, 23, 24]
PROMPTS = [PROMPT, [30, 31, 32], list(range(40, 61))]
STEPS = 4  # few, where it does not matter whether a canvas settles


loaded = cache(load)  # tests read models and do not change them


@dataclasses.dataclass(frozen=True)
class TapedNoise:
    """A recorded tape as a run's randomness."""

    tape: Tape

    def initial(self, block: int, shape: tuple[int, ...]) -> mx.array:
        return mx.array(self.tape.initial[block])

    def gumbel(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        return mx.array(self.tape.gumbel(block, step))

    def renoise(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
        return mx.array(self.tape.renoise[block, step])


@pytest.fixture(scope="module")
def hub() -> tuple[DiffusionGemma, Tokenizer]:
    """With few steps, for its weights are random, and its canvases never settle."""
    model, tokenizer = load(HUB)
    model.generation_defaults = dataclasses.replace(model.generation_defaults, max_denoising_steps=STEPS)
    return model, tokenizer


def events_of(pair: tuple[DiffusionGemma, Tokenizer], prompt: Any = PROMPT, **options: Any) -> list[Event]:
    return list(stream_generate(*pair, prompt, **options))


def tokens_of(events: Sequence[Event], row: int = 0) -> list[int]:
    return [token for event in events if isinstance(event, Segment) and event.row == row for token in event.tokens]


def finish_of(events: Sequence[Event], row: int = 0) -> Finish:
    (finish,) = (event for event in events if isinstance(event, Finish) and event.row == row)
    return finish


# Parity with Transformers


def test_every_step_and_every_token_equal_transformers(reference_run: ReferenceRun) -> None:
    run = reference_run
    model, tokenizer = loaded(run.checkpoint)
    noise = TapedNoise(run.tape)
    events = events_of((model, tokenizer), run.prompts, noise=noise, max_tokens=run.max_new_tokens)

    first_step = np.concatenate([[0], np.cumsum(run.steps)])
    seen: dict[tuple[int, int], int] = {}
    for event in events:
        if isinstance(event, Draft):
            at = first_step[event.block] + event.step, event.row
            assert (event.canvas == run.canvas[at]).all(), (run.name, at)
            assert (event.argmax == run.argmax[at]).all(), (run.name, at)
            assert (event.accepted == run.accepted[at]).all(), (run.name, at)
            assert np.abs(event.entropy - run.entropy[at]).max() < 1e-4
            seen[event.block, event.row] = event.step + 1

    prompt_length = run.prompt_ids.shape[1]
    for row, prompt in enumerate(run.prompts):
        written = tokens_of(events, row)
        padded = written + [model.config.pad_token_id] * (run.sequences.shape[1] - prompt_length - len(written))
        assert run.sequences[row, prompt_length:].tolist() == padded
        assert finish_of(events, row).stats.prompt_tokens == len(prompt)
    for block, steps in enumerate(run.steps.tolist()):
        alive = [seen[block, row] for row in range(len(run.prompts)) if (block, row) in seen]
        # Transformers also waits for rows that ended in an earlier block; we do not.
        assert max(alive) == steps or (len(alive) < len(run.prompts) and max(alive) < steps)


# Same seed, same text


def test_text_is_the_same_across_runs_streamed_or_not(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    options: dict[str, Any] = {"max_tokens": 32, "seed": 3}
    text = generate(*hub, PROMPT, **options)
    assert text
    assert generate(*hub, PROMPT, **options) == text
    assert "".join(event.text for event in events_of(hub, **options)) == text
    assert generate(*hub, PROMPT, max_tokens=32, seed=4) != text
    assert generate(*hub, PROMPT, max_tokens=32, seed=0) == generate(*hub, PROMPT, max_tokens=32)


def test_text_is_the_same_alone_and_in_a_batch(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    for seed in (0, 1):
        together = generate(*hub, PROMPTS, max_tokens=40, seed=seed)
        assert isinstance(together, list) and len(set(together)) == 3
        assert together == [generate(*hub, prompt, max_tokens=40, seed=seed) for prompt in PROMPTS]


def test_a_prompt_may_be_text_ids_or_messages(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    model, tokenizer = hub
    text = generate(model, tokenizer, "t20 t21 t22", max_tokens=16)
    assert generate(model, tokenizer, [20, 21, 22], max_tokens=16) == text
    assert generate(model, tokenizer, mx.array([20, 21, 22]), max_tokens=16) == text
    assert generate(model, tokenizer, ["t20 t21 t22"], max_tokens=16) == [text]
    messages = [{"role": "user", "content": "t20"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert rendered == [2, 4, 20, 3, 4]
    assert generate(model, tokenizer, messages, max_tokens=16) == generate(model, tokenizer, rendered, max_tokens=16)


def test_options_by_keyword_win_over_the_config(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    config = GenerationConfig(max_tokens=8, seed=9)
    by_config = events_of(hub, config=config)
    assert len(tokens_of(by_config)) == 8
    assert tokens_of(by_config) == tokens_of(events_of(hub, max_tokens=8, seed=9))
    assert tokens_of(events_of(hub, config=config, max_tokens=20))[:8] == tokens_of(by_config)


def test_another_rule_decides_what_a_step_keeps(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    events = events_of(
        hub, max_tokens=CANVAS, max_denoising_steps=3, acceptance=lambda e, p: mx.zeros(e.shape, mx.bool_)
    )
    assert [draft.accepted.any() for draft in events if isinstance(draft, Draft)] == [False] * 3
    sure = events_of(hub, max_tokens=CANVAS, max_denoising_steps=3, acceptance=lambda e, p: p >= 0.0)
    assert [draft.accepted.all() for draft in sure if isinstance(draft, Draft)] == [True] * 3


def test_keys_in_many_parts_write_the_same(
    hub: tuple[DiffusionGemma, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of a few hundred tokens, their keys gone over at once and, encoded in odd parts, 64 at a time."""
    prompts = [np.random.default_rng(seed).integers(10, 96, 300 + seed).tolist() for seed in range(3)]
    for prompt in (prompts[0], prompts):
        tokens = []
        for narrow, step in ((False, 2048), (True, 77)):
            if narrow:
                monkeypatch.setattr(attention, "widest", lambda rows, scores: 64)
                monkeypatch.setattr(transformer, "widest", lambda rows, scores: 64)
            events = events_of(hub, prompt, max_tokens=2 * CANVAS, max_denoising_steps=STEPS, prefill_step_size=step)
            tokens.append([tokens_of(events, row) for row in range(3)])
        assert tokens[0] == tokens[1]


# Where a text ends


def first_block(hub: tuple[DiffusionGemma, Tokenizer]) -> list[int]:
    return tokens_of(events_of(hub, max_tokens=CANVAS, eos_token_id=(), max_denoising_steps=STEPS))


@pytest.mark.parametrize("max_tokens", [1, 15, 16, 17, 40])
def test_max_tokens_cuts_the_last_block(hub: tuple[DiffusionGemma, Tokenizer], max_tokens: int) -> None:
    events = events_of(hub, max_tokens=max_tokens, eos_token_id=(), max_denoising_steps=STEPS)
    finish = finish_of(events)
    assert finish.finish_reason == "length"
    assert len(tokens_of(events)) == finish.stats.generated_tokens == max_tokens
    assert finish.stats.blocks == -(-max_tokens // CANVAS)
    assert tokens_of(events)[:16] == first_block(hub)[:max_tokens]


def test_a_stop_token_ends_the_text_and_is_not_in_it(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    tokens = first_block(hub)
    stop = tokens[5]
    at = tokens.index(stop)
    events = events_of(hub, max_tokens=40, eos_token_id=(stop, 95), max_denoising_steps=STEPS)
    assert tokens_of(events) == tokens[: at + 1]
    assert finish_of(events).finish_reason == "stop"
    assert finish_of(events).stats.generated_tokens == at + 1
    assert "".join(event.text for event in events) == hub[1].decode([t for t in tokens[:at] if t != 0])


def test_a_stop_token_after_the_last_token_does_not_count(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    tokens = first_block(hub)
    at = next(i for i in range(2, CANVAS) if tokens[i] not in tokens[:i])
    options = {"eos_token_id": (tokens[at],), "max_denoising_steps": STEPS}
    assert finish_of(events_of(hub, max_tokens=at, **options)).finish_reason == "length"
    assert finish_of(events_of(hub, max_tokens=at + 1, **options)).finish_reason == "stop"


@pytest.fixture
def narrow(tmp_path: Path) -> tuple[DiffusionGemma, Tokenizer]:
    """The same checkpoint with a context of 40 tokens."""
    model, tokenizer = load(HUB)
    model.config = dataclasses.replace(model.config, max_position_embeddings=40)
    return model, tokenizer


@pytest.mark.parametrize(("prompt", "blocks"), [(5, 2), (8, 2), (9, 1), (24, 1)])
def test_the_context_ends_a_text(narrow: tuple[DiffusionGemma, Tokenizer], prompt: int, blocks: int) -> None:
    options = {"max_tokens": 100, "eos_token_id": (), "max_denoising_steps": STEPS}
    events = events_of(narrow, list(range(20, 20 + prompt)), **options)
    assert finish_of(events).finish_reason == "context"
    assert finish_of(events).stats.blocks == blocks


def test_a_prompt_without_room_for_a_canvas_is_refused(narrow: tuple[DiffusionGemma, Tokenizer]) -> None:
    with pytest.raises(PromptError, match=r"25 tokens.*canvas of 16.*context of 40.*24"):
        stream_generate(*narrow, list(range(20, 45)))


def test_rows_end_on_their_own(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    alone = [events_of(hub, prompt, max_tokens=48, eos_token_id=()) for prompt in PROMPTS]
    stop = next(t for t in tokens_of(alone[0])[:CANVAS] if t not in tokens_of(alone[1]) + tokens_of(alone[2]))
    options = {"max_tokens": 48, "eos_token_id": (stop,)}
    together = events_of(hub, PROMPTS, **options)
    assert [finish_of(together, row).finish_reason for row in range(3)] == ["stop", "length", "length"]
    for row, prompt in enumerate(PROMPTS):
        own = events_of(hub, prompt, **options)
        assert tokens_of(together, row) == tokens_of(own)
        costs = (
            "prompt_tokens",
            "generated_tokens",
            "blocks",
            "denoising_steps",
            "decoder_positions",
            "encoder_positions",
        )
        for name in costs:
            assert getattr(finish_of(together, row).stats, name) == getattr(finish_of(own).stats, name)
    ended = together.index(finish_of(together, 0))
    assert all(event.row != 0 for event in together[ended + 1 :])


def test_a_canvas_may_be_shorter_than_the_trained_one(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    """In one batch with others or alone: positions are counted as they are forwarded."""
    for length in (1, 5, CANVAS):
        options = {"max_tokens": 7, "eos_token_id": (), "max_denoising_steps": 3, "canvas_length": length}
        events = events_of(hub, PROMPTS, confidence_threshold=1e-9, **options)
        assert tokens_of(events, 1) == tokens_of(events_of(hub, PROMPTS[1], confidence_threshold=1e-9, **options))
        stats = finish_of(events, 1).stats
        assert stats.blocks == -(-7 // length) and stats.generated_tokens == 7
        assert stats.decoder_positions == stats.denoising_steps * length
        assert stats.encoder_positions == len(PROMPTS[1]) + (stats.blocks - 1) * length


# The stream


def test_the_order_of_events(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    events = events_of(hub, max_tokens=32, eos_token_id=(), max_denoising_steps=3, confidence_threshold=1e-9)
    kinds = "".join(type(event).__name__[0] for event in events)
    assert kinds == "DDDSDDDSF"
    drafts = [event for event in events if isinstance(event, Draft)]
    assert [(draft.block, draft.step) for draft in drafts] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    segments = [event for event in events if isinstance(event, Segment)]
    assert segments[0].tokens == tuple(drafts[2].argmax.tolist())
    assert all(draft.canvas.shape == draft.accepted.shape == draft.entropy.shape == (CANVAS,) for draft in drafts)


def test_stats_count_what_was_done(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    events = events_of(hub, max_tokens=40, eos_token_id=(), max_denoising_steps=3, confidence_threshold=1e-9)
    stats = finish_of(events).stats
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (5, 0, 40)
    assert (stats.blocks, stats.denoising_steps) == (3, 9)
    assert stats.decoder_positions == 9 * CANVAS
    assert stats.encoder_positions == 5 + 2 * CANVAS  # the last block is not encoded
    assert stats.first_text_seconds is not None
    assert 0 < stats.prompt_seconds < stats.first_text_seconds < stats.prompt_seconds + stats.generation_seconds
    assert stats.peak_memory_bytes > 0


class Counting:
    """A model that counts its passes."""

    def __init__(self, model: DiffusionGemma):
        self._model = model
        self.encoded: list[np.ndarray] = []
        self.denoised = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, passages: Sequence[Passage]) -> mx.array:
        self.encoded += [np.array(passage.tokens) for passage in passages]
        return self._model.encode(passages)

    def survey(self, *args: Any) -> list[Seen]:
        self.denoised += 1
        return self._model.survey(*args)


def test_closing_ends_the_work_at_once(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    model = Counting(hub[0])
    stream: Iterator[Event] = stream_generate(model, hub[1], PROMPT, max_tokens=64)  # type: ignore[arg-type]
    assert model.encoded == [] and model.denoised == 0  # nothing before the first event is asked for
    next(stream)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert model.denoised == 2
    assert list(stream) == []


def test_every_block_but_the_last_is_encoded_and_nothing_of_rows_that_have_ended(
    hub: tuple[DiffusionGemma, Tokenizer],
) -> None:
    tokens = tokens_of(events_of(hub, PROMPT, max_tokens=32, eos_token_id=()))
    others = tokens_of(events_of(hub, PROMPTS[1], max_tokens=32, eos_token_id=()))
    stop = next(t for t in tokens[:CANVAS] if t not in others)
    model = Counting(hub[0])
    list(stream_generate(model, hub[1], PROMPTS[:2], max_tokens=32, eos_token_id=(stop,)))  # type: ignore[arg-type]
    assert [encoded.tolist() for encoded in model.encoded] == [PROMPT, PROMPTS[1], others[:CANVAS]]


def test_each_step_has_been_evaluated_when_its_draft_arrives(
    hub: tuple[DiffusionGemma, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = []
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(1))
    events = events_of(hub, max_tokens=40, eos_token_id=(), max_denoising_steps=2)
    assert all(isinstance(event.argmax, np.ndarray) for event in events if isinstance(event, Draft))
    assert len(cleared) == 1  # once the prompt's large arrays are done with


# Text that straddles blocks


class Writer:
    """A model that is sure of a given text; the cache counts the blocks before."""

    def __init__(self, tokens: list[int], canvas_length: int, vocab_size: int):
        self.config = SimpleNamespace(
            canvas_length=canvas_length, vocab_size=vocab_size, max_position_embeddings=1000, pad_token_id=0
        )
        self.compiled = False
        self.generation_defaults = GenerationConfig(eos_token_id=(5,), max_tokens=len(tokens))
        self.tokens = np.array(tokens + [5] * canvas_length)

    def make_cache(self, spare: int) -> SimpleNamespace:
        cache = SimpleNamespace(block=-1, arrays=list, offset=0)
        cache.prefix = lambda few_shapes: cache.block
        return cache

    def encode(self, passages: Sequence[Any]) -> None:
        for passage in passages:
            passage.cache.block += 1
            passage.cache.offset += passage.tokens.shape[0]

    def no_signal(self, length: int) -> mx.array:
        return mx.zeros((length, 1))

    def run(self, function: Any, module: None, *arguments: Any) -> Any:
        return function(*arguments)

    def survey(self, views: Sequence[View], *draws: Any) -> list[Seen]:
        length, found = self.config.canvas_length, []
        for view in views:
            block: Any = view.prefix
            tokens = mx.array(self.tokens[block * length :][:length], dtype=mx.int32)
            certain = mx.ones(tokens.shape)
            found.append(Seen(Survey(tokens, tokens, certain, mx.zeros(tokens.shape), view.soft, certain), ()))
        return found


@pytest.mark.parametrize("canvas_length", [1, 2, 3, 5, 64])
@pytest.mark.parametrize(
    "text", ["a🙂b", "<|channel>thought\nab🙂<channel|>fig oak", "<|tool_call>ab<tool_call|><|tool_call>é<tool_call|>"]
)
def test_text_is_the_same_however_it_falls_into_blocks(text: str, canvas_length: int, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_gemma_like(tmp_path))
    tokens = tokenizer.encode(text, add_special_tokens=False)
    writer: Any = Writer([*tokens, 5, 0], canvas_length, 300)
    segments = [event for event in stream_generate(writer, tokenizer, "a") if isinstance(event, Segment)]
    assert "".join(segment.text for segment in segments) == text
    assert not any("\ufffd" in segment.text for segment in segments)
    assert tokens_of(segments) == [*tokens, 5]


def test_half_a_character_at_the_end_is_given_as_the_tokenizer_gives_it(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_gemma_like(tmp_path))
    tokens = tokenizer.encode("a🙂", add_special_tokens=False)[:-1]
    writer: Any = Writer(tokens, 2, 300)
    assert generate(writer, tokenizer, "a") == tokenizer.decode(tokens)


# Bad input


def test_numbers_may_be_as_large_as_their_bounds_allow(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    options = {"entropy_bound": 10**38, "confidence_threshold": 10**38, "stability_threshold": 2**63 - 1}
    assert len(tokens_of(events_of(hub, max_tokens=4, eos_token_id=(), max_denoising_steps=2, **options))) == 4


@pytest.mark.parametrize(
    ("prompt", "options", "error", "named"),
    [
        ("", {}, PromptError, "empty"),
        ([], {}, PromptError, "empty"),
        (["t20", ""], {}, PromptError, "empty"),
        ([20, 96], {}, PromptError, "token id 96"),
        (PROMPT, {"max_tokens": 0}, OptionError, "max_tokens"),
        (PROMPT, {"canvas_length": 17}, OptionError, "canvas_length is 17.*at most 16"),
        (PROMPT, {"t_min": 0.9}, OptionError, "t_max"),
        (PROMPT, {"max_token": 5}, TypeError, "max_tokens"),
        (PROMPT, {"heat": 0.5}, TypeError, "unknown option"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    hub: tuple[DiffusionGemma, Tokenizer], prompt: Any, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    model: Any = Counting(hub[0])
    for call in (stream_generate, generate):
        with pytest.raises(error, match=named):
            call(model, hub[1], prompt, **options)
    assert model.encoded == []


def test_nan_weights_are_an_error_and_no_text() -> None:
    model, tokenizer = load(HUB)
    model.norm.weight = mx.full(model.norm.weight.shape, float("nan"))
    events = []
    with pytest.raises(CheckpointError, match="NaN"):
        for event in stream_generate(model, tokenizer, PROMPT):
            events.append(event)
    assert events == []


# Conversations


@pytest.fixture
def chat(hub: tuple[DiffusionGemma, Tokenizer]) -> tuple[DiffusionGemma, Tokenizer]:
    """A template that writes what it is given of tools and thinking."""
    model, tokenizer = hub
    source = "{% for m in messages %}{{ m.content }} {% endfor %}"
    source += "{% if tools %}t21 {% endif %}{% if enable_thinking %}t22 {% endif %}"
    return model, Tokenizer(tokenizer._backend, {"default": source})


def test_tools_and_thinking_reach_the_template(chat: tuple[DiffusionGemma, Tokenizer]) -> None:
    model, tokenizer = chat
    messages = [{"role": "user", "content": "t20"}]
    tools = [{"type": "function", "function": {"name": "sum"}}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "t20 "),
        ({"tools": tools}, "t20 t21 "),
        ({"enable_thinking": True}, "t20 t22 "),
    ]
    for how, text in cases:
        ids = tokenizer.encode(text, add_special_tokens=False)
        written = generate(model, tokenizer, messages, max_tokens=8, **how)
        assert written == generate(model, tokenizer, ids, max_tokens=8)
        with pytest.raises(PromptError, match="as messages") if how else contextlib.nullcontext():
            generate(model, tokenizer, ids, max_tokens=8, **how)


def test_plain_text_for_a_chat_checkpoint_is_hinted_at_once(chat: tuple[DiffusionGemma, Tokenizer]) -> None:
    model, tokenizer = chat
    generation._hint_at_messages.cache_clear()
    with pytest.warns(UserWarning, match="used as it is") as caught:
        for _ in range(3):
            generate(model, tokenizer, "t20", max_tokens=8)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_another_tokenizer_is_named(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    model, _ = hub
    for other in (PreTrainedTokenizerFast(tokenizer_file=str(FIXTURES / "hub" / "tokenizer.json")), None, model):
        with pytest.raises(PromptError, match=f"a {type(other).__name__}; pass the one that load"):
            generate(model, other, PROMPT)  # type: ignore[call-overload]


def test_one_prompt_gives_a_text_and_a_list_gives_a_list(hub: tuple[DiffusionGemma, Tokenizer]) -> None:
    text: str = generate(*hub, [20, 21], max_tokens=8)
    texts: list[str] = generate(*hub, [[20, 21], [20, 21]], max_tokens=8)
    assert texts == [text, text]
