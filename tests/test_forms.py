"""Forms: every slot gets what may stand in it, and a slot that cannot be is said before anything is written."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest
from conftest import narrow_toy
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion import OptionError, PromptError, fill, load
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.filling.slots import PATTERNS, Slot, split_template
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def small() -> tuple[DiffusionGemma, Tokenizer]:
    return narrow_toy()


@given(year=st.integers(1000, 2999), month=st.integers(0, 13), day=st.integers(0, 32))
def test_the_pattern_of_dates_is_the_calendar(year: int, month: int, day: int) -> None:
    text = f"{year}-{month:02}-{day:02}"
    try:
        datetime.date.fromisoformat(text)
        exists = True
    except ValueError:
        exists = False
    assert (re.fullmatch(PATTERNS["date"][0], text) is not None) == exists


@given(number=st.integers(-(10**18) + 1, 10**18 - 1), digits=st.text("0123456789", min_size=1, max_size=15))
def test_the_patterns_of_numbers_are_read_as_they_stand(number: int, digits: str) -> None:
    assert re.fullmatch(PATTERNS["integer"][0], str(number)) and Slot.read("n", "integer").value(str(number)) == number
    text = f"{number % 10**15}.{digits}"
    assert re.fullmatch(PATTERNS["number"][0], text) and Slot.read("n", "number").value(text) == float(text)
    assert not re.fullmatch(PATTERNS["integer"][0], f"0{abs(number)}")


def test_a_template_is_split_at_its_slots_and_other_braces_are_text() -> None:
    assert split_template('{"a": {a}, "b": {"c": {b}}}', ["b", "a"]) == (['{"a": ', ', "b": {"c": ', "}}"], ["a", "b"])


def test_every_slot_gets_what_may_stand_in_it_alone_and_beside_others(small: tuple[DiffusionGemma, Tokenizer]) -> None:
    model, tokenizer = small
    slots: dict[str, Any] = {
        "n": "integer",
        "d": "date",
        "b": "boolean",
        "c": ["Lima", "Lima Norte", "Oslo"],
        "r": {"type": "regex", "pattern": "[a-f]{2,4}x?"},
        "t": {"type": "text", "max_tokens": 2},
    }
    template = "{n} on {d}: {b} in {c} or {r}, says {t}."
    forms = fill(model, tokenizer, template, slots, ["one", "two"], max_denoising_steps=2)
    assert isinstance(forms, list)
    for form in forms:
        assert list(form) == ["n", "d", "b", "c", "r", "t"]
        assert form["n"]["value"] == int(form["n"]["text"])
        datetime.date.fromisoformat(form["d"]["value"])
        assert form["b"]["value"] in (True, False) and form["c"]["value"] in slots["c"]
        assert re.fullmatch("[a-f]{2,4}x?", form["r"]["value"]) and form["t"]["value"].strip()
        assert all(0 <= slot["probability"] <= 1 for slot in form.values())
    alone = fill(model, tokenizer, template, slots, "two", max_denoising_steps=2)
    assert isinstance(alone, dict)
    assert {name: slot["text"] for name, slot in alone.items()} == {n: slot["text"] for n, slot in forms[1].items()}


@pytest.mark.parametrize("slot", [{"type": "text", "max_tokens": 2}, ["ant", "hen"]], ids=["text", "choice"])
def test_every_form_is_filled_from_its_own_context(slot: Any) -> None:
    contexts = [f"Copy: cat dog {word} pig" for word in ("hen", "ant")]
    forms = fill(*load(DEMO_FOLDER), "cat dog {w} pig", {"w": slot}, contexts, max_denoising_steps=4)
    assert isinstance(forms, list) and [form["w"]["value"] for form in forms] == ["hen", "ant"]


@pytest.mark.parametrize(
    ("template", "slots", "words"),
    [
        ("no slot", {}, "there are no slots"),
        ("no slot", {"a": "text"}, "'a' stands nowhere"),
        ("{a} {a}", {"a": "text"}, "'a' stands twice"),
        ("{a}", {"a": "texts"}, "its type must be one of"),
        ("{a}", {"a": []}, "no choices"),
        ("{a}", {"a": ["x", "x"]}, "'x' twice"),
        ("{a}", {"a": ["x", ""]}, "each must be text"),
        ("{a}", {"a": {"type": "regex"}}, "no pattern"),
        ("{a}", {"a": {"type": "regex", "pattern": "("}}, "'a'"),
        ("{a}", {"a": {"type": "regex", "pattern": "a[^\\s\\S]"}}, "'a'"),
        ("{a}", {"a": {"type": "integer", "max_tokens": 3}}, "'max_tokens'"),
        ("{a}", {"a": {"type": "text", "max_tokens": 0}}, "must be 1 or more"),
        ("{a}", {"a": ["x y", "x▁y"]}, "the same tokens"),
        ("{5}", {5: "text"}, "the names of slots are text"),
        (5, {"a": "text"}, "pass text with slots"),
        ("{a}", ["a"], "write a dict"),
    ],
)
def test_forms_that_cannot_be_are_refused_in_a_line(
    small: tuple[DiffusionGemma, Tokenizer], template: Any, slots: Any, words: str
) -> None:
    with pytest.raises(OptionError) as raised:
        fill(*small, template, slots)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_slot_may_be_empty_where_its_pattern_allows_it(small: tuple[DiffusionGemma, Tokenizer]) -> None:
    form = fill(*small, "{a}{b}", {"a": {"type": "regex", "pattern": "()"}, "b": ["x", "y"]})
    assert isinstance(form, dict) and form["a"] == {"value": "", "text": "", "probability": 1.0}


def test_contexts_are_texts_and_none_of_them_is_no_form(small: tuple[DiffusionGemma, Tokenizer]) -> None:
    for context in (None, 5, [None]):
        with pytest.raises(PromptError, match=r"context is of type (NoneType|int)"):
            fill(*small, "{a}", {"a": ["x", "y"]}, context=context)  # type: ignore[arg-type]
    assert fill(*small, "{a}", {"a": ["x", "y"]}, context=[]) == []
