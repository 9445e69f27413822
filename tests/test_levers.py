"""Levers of denoising against slow twins, one position after the other, and on a small model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, write_shallow
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_step import VOCAB, Scripted, Walk, options

from mlx_diffusion import OptionError, stream_generate
from mlx_diffusion.engine.levers import BEHIND, Rotation, cut, rounded_width, settled_length
from mlx_diffusion.engine.rules import Policy, Rules
from mlx_diffusion.engine.step import first_canvas, step
from mlx_diffusion.events import Draft, Event, Finish, Segment
from mlx_diffusion.loading import load
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import Tokenizer

Pair = tuple[DiffusionGemma, Tokenizer]
STOP = 2
ALL_ON: dict[str, Any] = {
    "early_end": 0.9,
    "lock_threshold": 0.5,
    "refresh_every": 3,
    "crop_threshold": 0.5,
    "first_canvas": 8,
}


def slow_focus(locked: Sequence[bool], step: int, every: int) -> list[int]:
    """The live positions and those whose turn it is, filled up to a width with those whose turn comes soonest."""
    if step == 0:
        return list(range(len(locked)))
    waits: list[tuple[int, int]] = []
    for place, rests in enumerate(locked):
        wait = -1
        if rests:
            wait = 0
            while (place + step + wait) % every:
                wait += 1
        waits.append((wait, place))
    at_work = sum(wait <= 0 for wait, _ in waits)
    width = rounded_width(max(at_work, 1), len(locked))
    return sorted(place for _, place in sorted(waits)[:width])


@given(locked=st.lists(st.booleans(), min_size=1, max_size=70), step=st.integers(0, 50), every=st.integers(1, 6))
@hypothesis_settings(deadline=None, max_examples=100)
def test_a_rotation_forwards_what_is_live_and_every_locked_position_in_turn(
    locked: list[bool], step: int, every: int
) -> None:
    canvas = first_canvas(mx.zeros(len(locked), mx.int32), mx.zeros((len(locked), 1)))._replace(locked=mx.array(locked))
    found = Rotation(every)(canvas, step)
    places = list(range(len(locked))) if found is None else found.tolist()
    assert places == slow_focus(locked, step, every)
    assert {place for place, rests in enumerate(locked) if not rests} <= set(places)


@pytest.mark.parametrize("length", [1, 7, 16, 64, 100, 256])
def test_widths_are_few(length: int) -> None:
    widths = {rounded_width(count, length) for count in range(1, length + 1)}
    assert len(widths) <= 8
    assert all(count <= rounded_width(count, length) <= length for count in range(1, length + 1))


def softmaxed(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def slow_levers(walk: Walk) -> list[dict[str, Any]]:
    """What the levers decide at each step, from its input, its logits and who was forwarded, position by position."""
    settings = walk.request.settings
    length = walk.logits.shape[1]
    argmax, peak, locked = [-1] * length, [0.0] * length, [False] * length
    decided = []
    for number, record in enumerate(walk.records):
        temperature = settings.t_min + (settings.t_max - settings.t_min) * (len(walk.logits) - number) / len(
            walk.logits
        )
        p = softmaxed(walk.logits[number] / temperature)
        forwarded = slow_focus(locked, number, settings.refresh_every)
        for place in forwarded:
            argmax[place], peak[place] = int(p[place].argmax()), float(p[place].max())
            locked[place] = bool(record.canvas[place] == argmax[place] and peak[place] >= settings.lock_threshold < 1)
        stop = next((place for place in range(length) if argmax[place] == STOP), None)
        text = range(length if stop is None else stop + 1)
        needed = length
        if stop is not None and record.canvas[stop] == STOP and peak[stop] >= settings.crop_threshold < 1:
            needed = min(stop + 1 + BEHIND, length)
        sure = settings.early_end < 1 and all(peak[place] >= settings.early_end for place in text)
        decided.append({"argmax": list(argmax), "locked": list(locked), "sure": sure, "needed": needed})
    return decided


class Watched(Walk):
    """A walk that keeps what each step decided."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.canvas = self.canvas._replace(locked=mx.zeros(self.logits.shape[1], mx.bool_))
        self.decided: list[Any] = []

    def take(self, stepped: Any) -> None:
        super().take(stepped)
        self.decided.append(stepped)


@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 20),
    sharpness=st.sampled_from([2.0, 6.0, 20.0]),
    threshold=st.sampled_from([0.3, 0.9, 1.0]),
    every=st.integers(1, 4),
    compiled=st.just(False),
)
@hypothesis_settings(deadline=None, max_examples=40)
def test_steps_with_levers_equal_the_slow_twin(
    seed: int, length: int, sharpness: float, threshold: float, every: int, compiled: bool
) -> None:
    logits = sharpness * np.random.default_rng(seed).normal(size=(2, length, VOCAB)).repeat(3, axis=0)
    own = {"early_end": threshold, "lock_threshold": threshold, "crop_threshold": threshold, "refresh_every": every}
    walk = Watched(
        logits,
        options(max_denoising_steps=6, confidence_threshold=1e-9, seed=seed, eos_token_id=(STOP,), **own),
        Policy(focus=Rotation(every)),
    )
    for _ in range(6):
        (stepped,) = step(Scripted(compiled), [walk.turn()])
        walk.take(stepped)
    for number, (one, twin) in enumerate(zip(walk.decided, slow_levers(walk), strict=True)):
        assert one.canvas.survey.argmax.tolist() == twin["argmax"]
        assert walk_locked(walk, number + 1) == twin["locked"]
        assert one.finished.item() == twin["sure"]
        assert (length if one.needed is None else one.needed.item()) == twin["needed"]
        tokens, kept = np.array(one.canvas.tokens), np.array(twin["locked"])
        assert (tokens[kept] == np.array(twin["argmax"])[kept]).all()
        resting = np.setdiff1d(np.arange(length), slow_focus(walk_locked(walk, number), number, every))
        assert (tokens[resting] == walk.records[number].canvas[resting]).all()


def walk_locked(walk: Watched, number: int) -> list[bool]:
    """The locks before a step."""
    locked = walk.decided[number - 1].canvas.locked if number else None
    return [False] * walk.logits.shape[1] if locked is None else np.array(locked).tolist()


def test_what_is_pinned_keeps_its_place_in_a_crop() -> None:
    rules = Rules.of(options(crop_threshold=0.9, eos_token_id=(STOP,)))
    pinned = mx.array([-1] * 20 + [3] + [-1] * 11, dtype=mx.int32)
    free, held = (first_canvas(mx.full(32, STOP), mx.zeros((32, VOCAB)), own) for own in (None, pinned))
    argmax = mx.array([3, 3, STOP] + [3] * 19 + [STOP] + [3] * 9)
    survey = free.survey._replace(argmax=argmax, peak=mx.ones(32))
    assert settled_length(survey, free, rules, mx.array(0.9)).item() == 3 + BEHIND
    assert settled_length(survey, held, rules, mx.array(0.9)).item() == 23 + BEHIND
    cropped = cut(held, 24)
    assert cropped.pinned is not None and mx.array_equal(cropped.pinned, pinned[:24])
    assert {array.shape[0] for array in (cropped.tokens, *cropped.survey)} == {24}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load(write_shallow(FIXTURES / "hub", tmp_path_factory.mktemp("shallow") / "checkpoint"))


def events_of(pair: Pair, prompt: Sequence[int] = (5, 6, 7), **wishes: Any) -> list[Event]:
    return list(stream_generate(*pair, list(prompt), **{"max_tokens": 24, "max_denoising_steps": 5, **wishes}))


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Segment) for token in event.tokens]


def test_levers_that_are_off_change_no_bit(pair: Pair) -> None:
    off: dict[str, Any] = {"early_end": 1, "lock_threshold": 1, "crop_threshold": 1, "first_canvas": 0}
    plain, without = events_of(pair), events_of(pair, **off)
    assert tokens_of(plain) == tokens_of(without)
    for one, other in zip(plain, without, strict=True):
        if isinstance(one, Draft) and isinstance(other, Draft):
            assert (one.canvas == other.canvas).all()
            assert (one.entropy == other.entropy).all()


def test_locks_that_are_forwarded_at_every_step_rest_nowhere(pair: Pair) -> None:
    drafts = [one for one in events_of(pair, lock_threshold=1e-6, refresh_every=1) if isinstance(one, Draft)]
    assert {draft.forwarded for draft in drafts} == {None}


def test_a_first_canvas_without_a_stop_token_begins_anew(pair: Pair) -> None:
    long: dict[str, Any] = {"eos_token_id": (), "max_tokens": 16, "confidence_threshold": 1e-30}
    whole, guessed = events_of(pair, **long), events_of(pair, first_canvas=8, **long)
    widths = [len(event.canvas) for event in guessed if isinstance(event, Draft)]
    assert widths == [8] * 5 + [16] * 5
    assert tokens_of(guessed) == tokens_of(whole)
    every = tuple(range(pair[0].config.vocab_size))
    assert {
        len(one.canvas) for one in events_of(pair, eos_token_id=every, first_canvas=8) if isinstance(one, Draft)
    } == {8}


@given(
    pinned=st.lists(st.one_of(st.just(-1), st.integers(3, 60)), max_size=40),
    lock=st.sampled_from([0.02, 0.5, 1.0]),
    crop=st.sampled_from([0.02, 1.0]),
    every=st.integers(1, 5),
    parity=st.integers(0, 1),
)
@hypothesis_settings(deadline=None, max_examples=25)
def test_what_is_pinned_stays_whatever_rests_or_leaves(
    pair: Pair, pinned: list[int], lock: float, crop: float, every: int, parity: int
) -> None:
    stops = tuple(range(3 + parity, pair[0].config.vocab_size, 2))
    own = {"lock_threshold": lock, "crop_threshold": crop, "refresh_every": every, "first_canvas": 8}
    wishes: dict[str, Any] = {"eos_token_id": stops, "confidence_threshold": 1e-30, "max_tokens": 48, **own}
    events = events_of(pair, pinned=pinned, **wishes)
    tokens, length = tokens_of(events), pair[0].config.canvas_length
    written = min(len(tokens), len(pinned))
    assert all(known in (-1, token) for known, token in zip(pinned[:written], tokens, strict=False))
    for draft in (event for event in events if isinstance(event, Draft)):
        own_pins = pinned[draft.block * length : (draft.block + 1) * length]
        known = [(place, token) for place, token in enumerate(own_pins) if token >= 0]
        assert all(place < len(draft.canvas) and draft.canvas[place] == token for place, token in known)


def test_figures_count_the_positions_that_were_forwarded(pair: Pair) -> None:
    every = tuple(range(0, pair[0].config.vocab_size, 2))
    events = events_of(pair, eos_token_id=every, max_denoising_steps=8, **(ALL_ON | {"early_end": 1}))
    forwarded = [event.forwarded or len(event.canvas) for event in events if isinstance(event, Draft)]
    (stats,) = (event.stats for event in events if isinstance(event, Finish))
    assert stats.decoder_positions == sum(forwarded)
    assert "crop_threshold=0.5" in stats.levers and "refresh_every=3" in stats.levers
    assert not any(lever.startswith("early_end") for lever in stats.levers)


def test_traces_are_few_whatever_levers_do(tmp_path: Path) -> None:
    model, tokenizer = load(write_shallow(FIXTURES / "hub", tmp_path / "shallow"))
    model.compiled = True
    counts = []
    for number in range(60):
        prompt = np.random.default_rng(number).integers(10, 96, 1 + number % 40).tolist()
        stops = tuple(range(number % 2, model.config.vocab_size, 2))  # as many at each request
        own = {**ALL_ON, "lock_threshold": 0.02, "crop_threshold": 0.02, "seed": number, "eos_token_id": stops}
        events_of((model, tokenizer), prompt, **own)
        counts.append(model._traces.count)
    assert counts[-1] == counts[39], "later requests meet the traces of earlier ones"


@pytest.mark.parametrize(
    "options",
    [
        {"early_end": 0}, {"lock_threshold": 1.5}, {"crop_threshold": "a"}, {"refresh_every": 0}, {"first_canvas": -1},
        {"first_canvas": 10**6}, {"early_end": 0.9, "mode": "autoregressive"},
    ],
)  # fmt: skip
def test_levers_that_cannot_be_are_refused(pair: Pair, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        stream_generate(*pair, [5, 6], **options)


def test_modes_that_denoise_have_the_levers() -> None:
    settings = GenerationConfig(mode="balanced").resolve()
    assert settings.early_end < 1
    assert GenerationConfig(mode="fast").resolve().early_end < settings.early_end
    assert GenerationConfig(mode="balanced").resolve(GenerationConfig(mode="balanced", early_end=1)).early_end == 1
    assert not GenerationConfig().resolve().levers
