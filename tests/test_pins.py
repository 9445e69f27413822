"""Canvases of which something is known: it stays, the model sees it, and neither head nor sampler pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, write_shallow
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion import OptionError, PrefixStore, stream_generate
from mlx_diffusion.engine.denoising_row import DenoisingRow
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import REFERENCE, Canvas, Confidence, Policy
from mlx_diffusion.events import Draft, Event, Finish, Segment
from mlx_diffusion.loading import load
from mlx_diffusion.network.head import survey_vocabulary
from mlx_diffusion.network.rows import View
from mlx_diffusion.options import GenerationConfig

LENGTH = 6
loaded = cache(load)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shallow(FIXTURES / "hub", tmp_path_factory.mktemp("shallow") / "checkpoint")


@dataclass(frozen=True)
class LatterHalf:
    """A focus that lets the first positions rest."""

    def __call__(self, canvas: Canvas, step: int) -> mx.array | None:
        return None if step == 0 else mx.arange(canvas.tokens.shape[0] // 2, canvas.tokens.shape[0])


POLICIES = (Policy(), Policy(Confidence(0.5)), Policy(proposal="argmax"), Policy(focus=LatterHalf()))
WAYS: tuple[dict[str, Any], ...] = (
    {"mode": "reference"},
    {"mode": "balanced"},
    {"mode": "fast", "early_end": 0.001},
    {"mode": "fast", "early_end": 1, "lock_threshold": 0.001, "refresh_every": 2},
    {"mode": "fast", "early_end": 1, "crop_threshold": 0.001},
    {"mode": "fast", "early_end": 1, "first_canvas": 4},
)
STOPS = ((), tuple(range(0, 64, 2)))  # no token ends a text, or every other one


def events_of(folder: Path, pinned: Sequence[int], policy: Policy = REFERENCE, **options: Any) -> list[Event]:
    model, tokenizer = loaded(folder)
    wishes = GenerationConfig(canvas_length=LENGTH, max_denoising_steps=3, eos_token_id=()).override(options)
    draws = SeededDraws.of(7, model.config.vocab_size)
    request = Request((5, 6, 7), model.generation_defaults.resolve(wishes), draws, policy, pinned=tuple(pinned))
    return list(run(model, tokenizer, [request]))


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Segment) for token in event.tokens]


@given(
    pinned=st.lists(st.one_of(st.just(-1), st.integers(3, 60)), max_size=3 * LENGTH), policy=st.sampled_from(POLICIES)
)
@settings(max_examples=25)
def test_what_is_pinned_stays_and_is_seen_from_the_first_step_on(
    folder: Path, pinned: list[int], policy: Policy
) -> None:
    known = np.full(3 * LENGTH, -1)
    known[: len(pinned)] = pinned
    if policy.focus is not None and any((known[i * LENGTH + 3 : (i + 1) * LENGTH] >= 0).all() for i in range(3)):
        policy = Policy()  # a focus forwards something free
    events = events_of(folder, pinned, policy, max_tokens=3 * LENGTH)
    tokens = np.array(tokens_of(events))
    assert len(tokens) == 3 * LENGTH
    assert (tokens[known >= 0] == known[known >= 0]).all()
    for draft in (event for event in events if isinstance(event, Draft)):
        own = known[draft.block * LENGTH : (draft.block + 1) * LENGTH]
        for array in (draft.canvas, draft.argmax):
            assert (array[own >= 0] == own[own >= 0]).all()
        assert not draft.accepted[own >= 0].any()
        assert draft.accepted.any()
        assert not draft.entropy[own >= 0].any()
    (stats,) = (event.stats for event in events if isinstance(event, Finish))
    free = sum((known[i * LENGTH : (i + 1) * LENGTH] < 0).any() for i in range(3))
    assert stats.denoising_steps <= 3 * free  # no pass where nothing is free
    assert (stats.denoising_steps == 0) == (free == 0)


@given(
    known=st.lists(st.one_of(st.just(-1), st.integers(0, 60)), max_size=3 * LENGTH), way=st.sampled_from(WAYS),
    policy=st.sampled_from(POLICIES[:3]), stops=st.sampled_from(STOPS),
)  # fmt: skip
@settings(max_examples=25)
def test_a_text_has_all_that_is_known_of_it_in_every_mode(
    folder: Path, known: list[int], way: dict[str, Any], policy: Policy, stops: tuple[int, ...]
) -> None:
    tokens = tokens_of(events_of(folder, known, policy, max_tokens=3 * LENGTH, eos_token_id=stops, **way))
    last = max((place for place, token in enumerate(known) if token >= 0), default=-1)
    assert len(tokens) > last
    assert [token for token, own in zip(tokens, known, strict=False) if own >= 0] == [own for own in known if own >= 0]
    if last >= 0 and all(own >= 0 for own in known[: last + 1]) and tokens[last] in stops:
        assert tokens == known[: last + 1]


@pytest.mark.parametrize("stops", STOPS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", POLICIES[:3])
def test_a_text_of_which_all_is_known_is_that(
    folder: Path, policy: Policy, way: dict[str, Any], stops: tuple[int, ...]
) -> None:
    everything = [7] * (3 * LENGTH - 1) + [8]
    given_all = events_of(folder, everything, policy, max_tokens=3 * LENGTH, eos_token_id=stops, **way)
    assert tokens_of(given_all) == everything


def test_no_stop_token_shortens_a_canvas_that_more_is_known_behind(folder: Path) -> None:
    """Neither do positions leave it, nor is it finished where its text up to a stop token is sure."""
    way: dict[str, Any] = {"mode": "fast", "early_end": 1, "crop_threshold": 0.001, "canvas_length": 16}
    way |= {"max_tokens": 32, "eos_token_id": STOPS[1]}
    (plain,) = (event.stats for event in events_of(folder, [], **way) if isinstance(event, Finish))
    assert plain.decoder_positions < 16 * plain.denoising_steps, "alone, some of them leave"
    events = events_of(folder, [-1] * 20 + [9], **way)
    assert tokens_of(events)[20] == 9
    assert {event.canvas.shape[0] for event in events if isinstance(event, Draft) and event.block == 0} == {16}
    model, tokenizer = loaded(folder)
    settings = model.generation_defaults.resolve(GenerationConfig(**way))
    draws = SeededDraws.of(7, model.config.vocab_size)
    row = DenoisingRow(0, Request((5, 6, 7), settings, draws, pinned=(-1,) * 20 + (9,)), model, tokenizer)
    assert set(np.array(row.turn().rules.stops).tolist()) == {-1}
    row.block, row.canvas = 1, None
    assert set(np.array(row.turn().rules.stops).tolist()) >= set(STOPS[1])


@pytest.mark.parametrize("stops", STOPS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", POLICIES[:2])
def test_nothing_pinned_is_the_plain_run(
    folder: Path, policy: Policy, way: dict[str, Any], stops: tuple[int, ...]
) -> None:
    plain, free = (
        events_of(folder, pinned, policy, max_tokens=2 * LENGTH, eos_token_id=stops, **way)
        for pinned in ((), [-1] * 2 * LENGTH)
    )
    assert tokens_of(plain) == tokens_of(free)
    for one, other in zip(plain, free, strict=True):
        if isinstance(one, Draft) and isinstance(other, Draft):
            assert (one.canvas == other.canvas).all()
            assert (one.entropy == other.entropy).all()


@pytest.mark.parametrize("length", [LENGTH, LENGTH + 2])
def test_a_known_beginning_is_written_without_a_pass_whatever_a_store_has_kept(folder: Path, length: int) -> None:
    model, tokenizer = loaded(folder)
    store = PrefixStore(model, 10**8)
    for _ in range(2):
        events = list(
            stream_generate(
                model, tokenizer, [5, 6, 7], pinned=range(10, 10 + length), prefixes=store, canvas_length=LENGTH,
                max_tokens=length, eos_token_id=(),
            )
        )  # fmt: skip
        assert tokens_of(events) == list(range(10, 10 + length))
        assert all(isinstance(event, Segment | Finish | Draft) for event in events)
        assert (sum(isinstance(event, Draft) for event in events) == 0) == (length == LENGTH)


def test_the_head_runs_over_what_is_free_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def counting(hidden: mx.array, *arguments: Any) -> Any:
        counts.append(hidden.shape[0])
        return survey_vocabulary(hidden, *arguments)

    monkeypatch.setattr("mlx_diffusion.network.model.survey_vocabulary", counting)
    events_of(folder, [-1, 9, 9, -1, 9, 9], max_tokens=LENGTH)
    assert set(counts) == {2}


def test_the_survey_of_some_positions_is_theirs_in_the_survey_of_all(folder: Path) -> None:
    model, _ = loaded(folder)
    tokens, vocab = mx.arange(10, 18), model.config.vocab_size
    soft, noise, heat = model.no_signal(8), mx.random.gumbel((8, vocab), key=mx.random.key(0)), [mx.array([0.7])]
    view = View(tokens, soft, model.make_cache().prefix())
    (all_of_them,) = model.survey([view], heat, [noise])
    wanted = mx.array([1, 2, 6])
    (some,) = model.survey([view._replace(asked=wanted)], heat, [noise])
    for one, other in zip(all_of_them.survey, some.survey, strict=True):
        assert np.allclose(np.array(one[wanted].astype(mx.float32)), np.array(other.astype(mx.float32)), atol=1e-2)


def test_certainty_is_that_of_the_free_positions(folder: Path) -> None:
    """One free position among many certain ones must not look certain for that."""
    one = events_of(folder, [9] * (LENGTH - 1), max_tokens=LENGTH, confidence_threshold=1e9, stability_threshold=0)
    (draft,) = (event for event in one if isinstance(event, Draft))
    between = float(draft.entropy.sum()) / 2
    again = events_of(
        folder, [9] * (LENGTH - 1), max_tokens=LENGTH, confidence_threshold=between, stability_threshold=0
    )
    drafts = [event for event in again if isinstance(event, Draft)]
    assert drafts[0].entropy.mean() < between < drafts[0].entropy.sum()
    assert len(drafts) > 1


@pytest.mark.parametrize(
    ("pinned", "options"), [([10**9], {}), ([-2], {}), ([True], {}), (["a"], {}), ([9], {"mode": "autoregressive"})]
)
def test_pins_that_cannot_be_are_refused(folder: Path, pinned: list[Any], options: dict[str, Any]) -> None:
    model, tokenizer = loaded(folder)
    with pytest.raises(OptionError):
        stream_generate(model, tokenizer, [5, 6], pinned=pinned, **options)
