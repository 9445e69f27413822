"""Rows that come and go: each writes what it writes alone, to the bit, and nobody waits for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, write_shallow
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.engine.engine import Engine, run
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import Canvas, Confidence, Policy
from mlx_diffusion.events import Draft, Event, Finish, Prefill, Segment
from mlx_diffusion.loading import load
from mlx_diffusion.modes import Mode
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import View
from mlx_diffusion.options import GenerationConfig

loaded = cache(load)


@pytest.fixture(scope="module", params=[FIXTURES / "hub", DEMO_FOLDER], ids=["random", "demo"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sliding and a full layer, as wide as those of each checkpoint."""
    return write_shallow(request.param, tmp_path_factory.mktemp("shallow") / "checkpoint")


@cache
def pool(folder: Path) -> list[Request]:
    """Requests of every kind: prompts past the window, in parts, canvases of any length, texts of one block or more."""
    model, _ = loaded(folder)
    rng, made = np.random.default_rng(0), []
    for number in range(24):
        longest = int(rng.integers(1, 17))
        options = GenerationConfig(
            max_tokens=int(rng.integers(1, 24)) if number % 2 else longest,
            max_denoising_steps=int(rng.integers(1, 4)),
            canvas_length=longest,
            prefill_step_size=int(rng.choice([7, 16, 2048])),
            confidence_threshold=float(rng.choice([1e-9, 0.005, 5.0])),
            entropy_bound=float(rng.choice([0.1, 3.0])),
            eos_token_id=() if number % 3 else None,
            seed=number,
        )
        own = model.generation_defaults.resolve(options)
        prompt = rng.integers(3, 90, int(rng.choice([1, 7, 30, 33, 70]))).tolist()
        policy = Policy(Confidence(0.5)) if number % 5 == 0 else Policy()
        pinned = rng.choice([-1, 40, 41], 2 * longest).tolist() if number % 4 == 1 else ()
        draws = SeededDraws.of(number, model.config.vocab_size)
        made.append(Request(tuple(prompt), own, draws, policy, pinned=tuple(pinned)))
    return made


def bare(event: Event) -> tuple[Any, ...]:
    """An event without its row and its times."""
    match event:
        case Draft():
            arrays = event.canvas, event.argmax, event.accepted, event.entropy
            return ("draft", event.block, event.step, *(array.tobytes() for array in arrays))
        case Segment():
            return ("segment", event.block, event.tokens, event.text)
        case Finish():
            counted = "generated_tokens blocks denoising_steps decoder_positions encoder_positions cached_tokens"
            return ("finish", event.finish_reason, *(getattr(event.stats, name) for name in counted.split()))
        case Prefill():
            return ("prefill", event.encoded_tokens, event.prompt_tokens)


@cache
def alone(folder: Path, number: int) -> list[tuple[Any, ...]]:
    return [bare(event) for event in run(*loaded(folder), [pool(folder)[number]])]


ROWS = st.lists(
    st.tuples(
        st.integers(0, 23),  # which request
        st.integers(0, 12),  # before which pass it joins
        st.one_of(st.none(), st.none(), st.integers(1, 8)),  # after how many of its passes it is dropped
    ),
    min_size=1,
    max_size=5,
)


@given(rows=ROWS, runs_ahead=st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_request_writes_the_same_alone_in_company_and_joined_late(
    folder: Path, rows: Sequence[tuple[int, int, int | None]], runs_ahead: bool
) -> None:
    """Also as on a GPU, where the next steps are begun before the last ones are read."""
    engine = Engine(*loaded(folder))
    engine.runs_ahead = runs_ahead
    numbers: dict[int, tuple[int, int | None]] = {}
    found: dict[int, list[tuple[Any, ...]]] = {}
    waiting, passes = sorted(rows, key=lambda row: row[1]), 0
    while waiting or engine:
        while waiting and waiting[0][1] <= passes:
            number, _, life = waiting.pop(0)
            row = engine.add(pool(folder)[number])
            numbers[row], found[row] = (number, None if life is None else passes + life), []
        for event in engine.advance():
            found[event.row].append(bare(event))
        passes += 1
        for row, (_, end) in numbers.items():
            if end is not None and passes >= end:
                engine.drop(row)
    for row, (number, end) in numbers.items():
        expected = alone(folder, number)
        assert found[row] == expected[: len(found[row])]
        assert end is not None or len(found[row]) == len(expected)


class Counting:
    """A model that counts the positions of each step."""

    def __init__(self, model: DiffusionGemma) -> None:
        self.model, self.forwarded = model, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def survey(self, views: Sequence[View], *draws: Any) -> Any:
        self.forwarded.append(sum(view.tokens.shape[0] for view in views))
        return self.model.survey(views, *draws)


def test_a_row_that_has_ended_costs_nothing_more() -> None:
    """Positions are those of the rows that are there: no step waits for the slowest."""
    model, tokenizer = loaded(FIXTURES / "hub")
    own = model.generation_defaults.resolve(GenerationConfig(max_tokens=16, confidence_threshold=1e-9))
    requests = [
        Request((20, 21), replace(own, max_denoising_steps=steps), SeededDraws.of(steps, 96), Policy())
        for steps in (2, 5, 9)
    ]
    counted = Counting(model)
    events = list(run(cast(DiffusionGemma, counted), tokenizer, requests))
    assert counted.forwarded == [48] * 2 + [32] * 3 + [16] * 4
    ended = [event.row for event in events if isinstance(event, Finish)]
    assert ended == [0, 1, 2]
    assert sum(event.stats.decoder_positions for event in events if isinstance(event, Finish)) == sum(counted.forwarded)


def test_no_more_than_one_step_is_ahead_of_whoever_leaves() -> None:
    model, tokenizer = loaded(FIXTURES / "hub")
    own = model.generation_defaults.resolve(GenerationConfig(max_tokens=16, confidence_threshold=1e-9))
    for runs_ahead in (False, True):
        counted = Counting(model)
        engine = Engine(cast(DiffusionGemma, counted), tokenizer)
        engine.runs_ahead = runs_ahead
        rows = [engine.add(Request((20, 21), own, SeededDraws.of(seed, 96), Policy())) for seed in (0, 1)]
        for _ in range(4):  # the prompts, then three steps
            engine.advance()
        engine.drop(rows[0])
        events = engine.advance()
        assert [(event.row, event.step) for event in events if isinstance(event, Draft)] == [(rows[1], 3)]
        engine.drop(rows[1])
        assert not engine and engine.advance() == []
        assert counted.forwarded == [32] * 3 + ([32, 16] if runs_ahead else [16])


def test_nobody_waits_for_a_long_prompt() -> None:
    """Parts of it and others' steps take turns."""
    model, tokenizer = loaded(FIXTURES / "hub")
    own = model.generation_defaults.resolve(
        GenerationConfig(max_tokens=16, max_denoising_steps=4, confidence_threshold=1e-9, prefill_step_size=8)
    )
    engine = Engine(model, tokenizer)
    engine.add(Request((20, 21), own, SeededDraws.of(0, 96), Policy()))
    kinds = [type(event).__name__ for event in engine.advance()]
    long = engine.add(Request(tuple(range(10, 90)), own, SeededDraws.of(1, 96), Policy()))
    while engine:
        kinds += [f"{type(event).__name__}{event.row}" for event in engine.advance()]
    first = kinds.index("Finish0")
    assert [kind for kind in kinds[:first] if kind.startswith("Prefill")] == [f"Prefill{long}"] * 3
    assert kinds[:first].count("Draft0") == 4


@pytest.mark.parametrize("mode, own_passes", [("reference", 1 + 2), ("autoregressive", 1), ("speculative", 1)])
@pytest.mark.parametrize("length, count", [(2, 1), (20, 3), (60, 1)])
def test_a_short_prompt_waits_for_no_pass_of_a_long_one(mode: Mode, own_passes: int, length: int, count: int) -> None:
    """Those who join while the long one is encoded need only their own passes until there is text, however many they
    are; and the long one goes on in the same ones."""
    model, tokenizer = loaded(FIXTURES / "hub")
    options = GenerationConfig(max_tokens=16, prefill_step_size=64, mode=mode)
    if mode == "reference":
        options = replace(options, max_denoising_steps=2, confidence_threshold=1e-9)
    own = model.generation_defaults.resolve(options)
    engine = Engine(model, tokenizer)
    long = engine.add(Request(tuple(range(10, 90)) * 5, own, SeededDraws.of(0, 96), Policy()))
    for _ in range(2):
        engine.advance()
    for seed in range(count):
        engine.add(Request(tuple(range(20, 20 + length)), own, SeededDraws.of(seed, 96), Policy()))
    events = [event for _ in range(own_passes) for event in engine.advance()]
    assert {event.row for event in events if isinstance(event, Segment)} == set(range(1, count + 1))
    assert length * count > 8 or any(event.row == long for event in events)
    while engine:
        events += engine.advance()
    assert isinstance(events[-1], Finish) and events[-1].row == long


def test_a_long_prompt_is_not_passed_over_for_ever() -> None:
    """Short ones that come one after another leave it every fourth pass."""
    model, tokenizer = loaded(FIXTURES / "hub")
    own = model.generation_defaults.resolve(GenerationConfig(max_tokens=1, prefill_step_size=64, mode="autoregressive"))
    engine = Engine(model, tokenizer)
    engine.add(Request(tuple(range(10, 90)) * 5, own, SeededDraws.of(0, 96), Policy()))
    encoded = 0
    for seed in range(12):
        if len(engine) < 2:
            engine.add(Request(tuple(range(20, 80)), own, SeededDraws.of(seed, 96), Policy()))
        encoded += any(isinstance(event, Prefill) for event in engine.advance())
    assert encoded == 3


def test_dropping_is_final_and_forgives() -> None:
    model, tokenizer = loaded(FIXTURES / "hub")
    engine = Engine(model, tokenizer)
    own = model.generation_defaults.resolve(GenerationConfig(max_tokens=16, max_denoising_steps=3))
    row = engine.add(Request((20, 21), own, SeededDraws.of(0, 96), Policy()))
    engine.advance()
    engine.drop(row)
    engine.drop(row)
    engine.drop(99)
    assert len(engine) == 0 and engine.advance() == []


class Half:
    """A focus on the first and the second half of a canvas in turn."""

    def __call__(self, canvas: Canvas, step: int) -> mx.array | None:
        length = canvas.tokens.shape[0]
        return None if step == 0 else mx.arange(length // 2) + (step % 2) * (length // 2)


def test_positions_that_rest_are_not_counted_and_keep_their_keys() -> None:
    """A canvas whose halves rest in turn, in company of one that never rests: as alone."""
    model, tokenizer = loaded(FIXTURES / "hub")
    own = model.generation_defaults.resolve(
        GenerationConfig(max_tokens=16, max_denoising_steps=5, confidence_threshold=1e-9)
    )
    requests = [
        Request((20, 21, 22), own, SeededDraws.of(0, 96), Policy(focus=Half())),
        Request((30, 31), own, SeededDraws.of(1, 96), Policy()),
    ]
    together = list(run(model, tokenizer, requests))
    for row, request in enumerate(requests):
        own_events = [bare(event) for event in together if event.row == row]
        assert own_events == [bare(event) for event in run(model, tokenizer, [request])]
    stats = [event.stats for event in together if isinstance(event, Finish)]
    assert [one.decoder_positions for one in stats] == [16 + 4 * 8, 5 * 16]
    resting = [event for event in together if isinstance(event, Draft) and event.row == 0]
    for before, after in pairwise(resting[1:]):
        half = slice(0, 8) if before.step % 2 else slice(8, 16)
        assert (before.entropy[half] == resting[before.step - 1].entropy[half]).all()
        assert (before.canvas[half] == after.canvas[half]).all()
