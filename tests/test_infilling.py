"""Gaps in any text: what was given stays as it is, tokens may straddle the seams, and what cannot be done is said."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from conftest import narrow_toy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_diffusion import (
    DiffusionError,
    Draft,
    Finish,
    OptionError,
    PromptError,
    Segment,
    infill,
    load,
    stream_infill,
)
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.filling.places import Surroundings, places
from mlx_diffusion.filling.seams import Seams
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

loaded = cache(load)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=24) | st.text("ab \n\t▁<|turn>é👍\u0301", max_size=24)


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(DEMO_FOLDER)


@pytest.fixture(scope="module")
def small() -> tuple[DiffusionGemma, Tokenizer]:
    return narrow_toy()


@given(before=TEXT, gap=TEXT, after=TEXT)
@example(before="fig ", gap="oak ", after="ant")
@example(before="a▁", gap="", after="▁b")
@settings(max_examples=500)
def test_seams_give_back_every_character(before: str, gap: str, after: str) -> None:
    seams = Seams.opened(tokenizer(), before, after)
    assert before.endswith(seams.begins)
    assert after.startswith(seams.ends)
    assert seams.gap_in(seams.begins + gap + seams.ends) == gap
    assert [*seams.before, *seams.off_before] == tokenizer().encode_text(before)
    assert [*seams.off_after, *seams.after] == tokenizer().encode_text(after)
    closed = seams
    for _ in range(2):
        closed = closed.closed("\0") if closed.gap_in("\0") is None else closed
    assert closed.gap_in("\0") == "\0"  # closed seams take whatever is written


@given(before=TEXT, after=TEXT, seed=st.integers(0, 3))
@settings(max_examples=5)
def test_any_text_can_be_infilled_and_the_same_seed_gives_the_same(
    small: tuple[DiffusionGemma, Tokenizer], before: str, after: str, seed: int
) -> None:
    model, own = small
    options: dict[str, Any] = {"context": "any", "max_tokens": 2, "seed": seed, "max_denoising_steps": 2}
    events = list(stream_infill(model, own, before, after, **options))
    gap = "".join(event.text for event in events)
    assert gap == infill(model, own, before, after, **options)
    assert [type(event) for event in events[-2:]] == [Segment, Finish]
    assert all(isinstance(event, Draft) for event in events[:-2])


@given(
    before=st.integers(0, 90), after=st.integers(0, 90), most=st.integers(1, 40), ends=st.booleans(),
    wanted=st.sampled_from([None, 48]),
)  # fmt: skip
def test_a_place_holds_the_gap_and_what_is_next_to_it(
    before: int, after: int, most: int, ends: bool, wanted: int | None
) -> None:
    around = Surroundings(tuple(range(1000, 1000 + before)), tuple(range(2000, 2000 + after)), 1 if ends else None)
    whole = [*around.before, -1, *around.after, *([1] * 99 if ends else [-1] * 99)]
    for count, place in zip(range(1, most + 1), places(around, range(1, most + 1), 64, wanted), strict=True):
        assert len(place.pinned) in ([16, 32, 64] if wanted is None else [wanted])
        assert (place.pinned[place.open] == (-1,) * count) and place.count == count
        known = [*place.written, *place.pinned[: place.start], -1, *place.pinned[place.start + count :]]
        assert known == whole[: len(known)]
        assert len(place.pinned) - place.start - count >= min(
            after, (len(place.pinned) - most) // 2
        )  # what is next to it is seen


def test_texts_longer_than_a_canvas_are_infilled(small: tuple[DiffusionGemma, Tokenizer]) -> None:
    model, own = small
    gap = infill(model, own, "fig oak " * 60, " ant elm" * 60, max_tokens=4, max_denoising_steps=2)
    assert isinstance(gap, str)


def test_a_gap_of_no_tokens_takes_no_pass(small: tuple[DiffusionGemma, Tokenizer]) -> None:
    segment, finish = stream_infill(*small, "fig oa", "k ant", gap_tokens=0)
    assert segment == Segment(0, (), "")
    assert isinstance(finish, Finish) and finish.stats.denoising_steps == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("before", "after"), [("fig ", " ant"), ("fig oa", "k ant"), ("<|turn>", "\u0301b")])
def test_a_gap_has_no_more_tokens_than_it_may(
    small: tuple[DiffusionGemma, Tokenizer], before: str, after: str, seed: int
) -> None:
    """What straddles the seams counts, too: three open positions for one token must not give three tokens."""
    model, own = small
    for options in ({"gap_tokens": 1}, {"max_tokens": 1}):
        gap = infill(model, own, before, after, seed=seed, max_denoising_steps=2, **options)  # type: ignore[arg-type]
        assert gap == "\ufffd" or len(own.encode_text(gap)) <= 1  # one byte may be a part of a character


def test_max_tokens_beyond_a_gap_ask_for_no_more(small: tuple[DiffusionGemma, Tokenizer]) -> None:
    """Its canvas, steps and text are those of the gap, not of a text that might be so long."""
    found = []
    for most in (None, 2, 500):
        options: dict[str, Any] = {"gap_tokens": 2, "max_tokens": most, "max_denoising_steps": 2}
        *drafts, segment, finish = stream_infill(*small, "fig ", " ant", **options)
        assert isinstance(finish, Finish) and finish.stats.blocks == 1
        shapes = [draft.canvas.shape for draft in drafts if isinstance(draft, Draft)]
        found.append((segment, shapes, finish.stats.denoising_steps, finish.stats.decoder_positions))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("most", [8, 200])
def test_a_gap_ends_where_the_text_behind_it_begins_however_long_it_may_be(most: int) -> None:
    gap = list(
        stream_infill(*loaded(DEMO_FOLDER), "cat dog ", " pig", context="Copy: cat dog hen pig", max_tokens=most)
    )
    assert [event.text for event in gap if isinstance(event, Segment)] == ["hen"]


@pytest.mark.parametrize("options", [{"max_tokens": 40}, {"gap_tokens": 14}])
def test_a_gap_longer_than_a_canvas_is_written_over_several(options: dict[str, Any]) -> None:
    model, own = loaded(DEMO_FOLDER)
    context, gap = "As JSON: Fudin is 45 and lives in Bern.", ' "Fudin", "age": 45, "city":'
    events = list(stream_infill(model, own, '{"name":', ' "Bern"}', context=context, canvas_length=8, **options))
    assert "".join(event.text for event in events) == gap
    blocks = [event.block for event in events if isinstance(event, Segment)]
    assert blocks == list(range(len(blocks))) and len(blocks) > 2
    assert isinstance(events[-1], Finish) and events[-1].stats.blocks == len(blocks)


@pytest.mark.parametrize(
    ("before", "after", "options", "error"),
    [
        ("a", "b", {"max_tokens": 0}, OptionError),
        ("a", "b", {"max_tokens": 10**6}, OptionError),
        ("a", "b", {"max_tokens": 2040}, PromptError),
        ("a", "b", {"gap_tokens": -1}, OptionError),
        ("a", "b", {"gap_tokens": 5, "max_tokens": 4}, OptionError),
        ("a", "b", {"mode": "autoregressive"}, OptionError),
        ("a", "b", {"stop": "x"}, OptionError),
        ("a", "b", {"canvas_length": 65}, OptionError),
        ("a", "b", {"canvas_length": 7}, OptionError),
        ("a", "b", {"seeds": 1}, TypeError),
        ("", "", {}, PromptError),
        ("\ud800", "", {}, PromptError),
        ("a", 5, {}, PromptError),
        ("a " * 3000, "b", {}, PromptError),
    ],
)
def test_what_cannot_be_infilled_is_refused_in_a_line(
    small: tuple[DiffusionGemma, Tokenizer], before: Any, after: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    model, own = small
    with pytest.raises(error) as raised:
        infill(model, own, before, after, **options)
    assert "\n" not in str(raised.value) or not isinstance(raised.value, DiffusionError)
