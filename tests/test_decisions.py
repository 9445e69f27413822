"""Questions decided without writing: whole answers compete, and their probabilities are worked out by hand here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_shallow
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion import OptionError, PromptError, decide, load
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.filling.candidates import told_apart
from mlx_diffusion.filling.decisions import confidence

loaded = cache(load)
QUESTIONS: dict[str, dict[str, Any]] = {
    "old": {"type": "noul", "instructions": "Is Galen over 30?"},
    "where": {"type": "choice", "instructions": "Where does Galen live?", "criteria": ["Lima", "Oslo", "Lima Norte"]},
    "why": {"type": "choice", "instructions": "Why?", "criteria": {"a": "for work", "b": None}},
    "age": {"type": "score", "instructions": "How old is Galen?", "criteria": ["under 20", "20 to 60", "over 60"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shallow(DEMO_FOLDER, tmp_path_factory.mktemp("shallow") / "checkpoint")


def said(*rows: dict[int, float]) -> np.ndarray:
    """Log-probabilities [F, 10] of these tokens at each position."""
    found = np.full((len(rows), 10), -30.0, np.float32)
    for row, own in zip(found, rows, strict=True):
        for token, probability in own.items():
            row[token] = np.log(probability)
    return found


def test_whole_texts_compete_and_not_their_first_tokens() -> None:
    # 1 2 and 1 3 share the first token's 0.6; 4 5 has 0.4 of it, and is likelier than either.
    shares = told_apart([(1, 2), (1, 3), (4, 5)], said({1: 0.6, 4: 0.4}, {2: 0.25, 3: 0.25, 5: 0.5}))
    assert np.allclose(shares, [0.3, 0.3, 0.4])


def test_a_long_text_is_not_worse_for_being_long() -> None:
    shares = told_apart([(1, 9), (2, 3, 3, 9)], said({1: 0.5, 2: 0.5}, {9: 0.5, 3: 0.5}, {3: 0.5}, {9: 0.5}))
    assert np.allclose(shares, [0.5, 0.5])


def test_a_text_that_begins_as_another_is_told_by_what_is_left() -> None:
    assert np.allclose(told_apart([(1,), (1, 2)], said({1: 1.0}, {2: 0.3})), [0.7, 0.3])


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple), min_size=2, max_size=6, unique=True))
def test_probabilities_of_texts_are_probabilities(tails: list[tuple[int, ...]]) -> None:
    logits = np.random.default_rng(len(tails)).normal(size=(4, 10)).astype(np.float32)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    shares = told_apart(tails, logprobs)
    assert np.isclose(shares.sum(), 1) and (shares >= 0).all()


def test_confidence_is_one_for_one_answer_and_zero_for_all() -> None:
    assert confidence(np.array([0.0, 1.0, 0.0])) == 1
    assert confidence(np.full(5, 0.2)) == pytest.approx(0)
    assert 0 < confidence(np.array([0.7, 0.3])) < 1


@pytest.mark.parametrize("options", [{"method": "encoder"}, {"method": "canvas", "passes": 2, "samples": 2}])
def test_answers_have_the_shared_form_and_a_question_its_answer_in_any_company(
    folder: Path, options: dict[str, Any]
) -> None:
    model, tokenizer = loaded(folder)
    state = {"name": "Galen", "age": 54, "city": "Lima"}
    answers = decide(model, tokenizer, state, QUESTIONS, **options)
    assert {name: set(answer) for name, answer in answers.items()} == {
        "old": {"type", "noul"},
        "where": {"type", "choice", "probabilities", "confidence"},
        "why": {"type", "choice", "probabilities", "confidence"},
        "age": {"type", "score", "legend", "probabilities", "confidence"},
    }
    assert answers["age"]["legend"] == {"0": "under 20", "1": "20 to 60", "2": "over 60"}
    where = answers["where"]["probabilities"]
    assert answers["where"]["choice"] == max(where, key=where.get)
    for name in ("where", "why", "age"):
        assert sum(answers[name]["probabilities"].values()) == pytest.approx(1)
    alone = decide(model, tokenizer, state, {"where": QUESTIONS["where"]}, **options)
    assert alone["where"]["probabilities"] == pytest.approx(where, abs=1e-3)


@pytest.mark.parametrize("method", ["encoder", "canvas"])
def test_what_is_said_does_not_depend_on_how_much_a_pass_may_hold(folder: Path, method: Any) -> None:
    model, tokenizer = loaded(folder)
    answers = [
        decide(model, tokenizer, "Galen is 54.", {"where": QUESTIONS["where"]}, method=method, prefill_step_size=size)
        for size in (2048, 4)
    ]
    one, other = (answer["where"]["probabilities"] for answer in answers)
    assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("method", ["encoder", "canvas"])
def test_choices_that_are_the_same_tokens_are_refused(folder: Path, method: Any) -> None:
    model, tokenizer = loaded(folder)
    question = {"type": "choice", "instructions": "Which?", "criteria": ["a b", "a▁b"]}
    with pytest.raises(OptionError, match="'a b' and 'a▁b', which are the same tokens"):
        decide(model, tokenizer, "s", {"q": question}, method=method)


NOUL = {"type": "noul", "instructions": "Is it?"}
CHOICE = {"type": "choice", "instructions": "Which?"}


@pytest.mark.parametrize(
    ("state", "questions", "options", "error", "words"),
    [
        ("s", {}, {}, OptionError, "1 to 64"),
        ("s", {str(n): NOUL for n in range(65)}, {}, OptionError, "1 to 64"),
        ("s", {"q": "?"}, {}, OptionError, "'q'"),
        ("s", {"q": {"type": "maybe", "instructions": "?"}}, {}, OptionError, "noul, choice, score"),
        ("s", {"q": {"type": "noul"}}, {}, OptionError, "no instructions"),
        ("s", {"q": {**NOUL, "options": []}}, {}, OptionError, "'options'"),
        ("s", {"q": {**NOUL, "criteria": {"perhaps": "x"}}}, {}, OptionError, "true"),
        ("s", {"q": CHOICE}, {}, OptionError, "no choices"),
        ("s", {"q": {**CHOICE, "criteria": ["a"]}}, {}, OptionError, "1 choice"),
        ("s", {"q": {**CHOICE, "criteria": ["a", "b", "a"]}}, {}, OptionError, "'a' twice"),
        ("s", {"q": {**CHOICE, "criteria": ["a", ""]}}, {}, OptionError, "one line"),
        ("s", {"q": {**CHOICE, "type": "score"}}, {}, OptionError, "no levels"),
        (
            "s",
            {"q": {**CHOICE, "criteria": ["a " * 90 + "x", "b " * 90]}},
            {"method": "canvas"},
            OptionError,
            "shorten",
        ),
        ("", {"q": NOUL}, {}, PromptError, "the state is empty"),
        ({"x": float("nan")}, {"q": NOUL}, {}, PromptError, "JSON"),
        ({1, 2}, {"q": NOUL}, {}, PromptError, "JSON"),
        ("s", {"q": NOUL}, {"method": "guess"}, OptionError, "canvas"),
        ("s", {"q": NOUL}, {"passes": 4}, OptionError, "passes"),
        ("s", {"q": NOUL}, {"samples": 0}, OptionError, "samples"),
        ("s " * 9000, {"q": NOUL}, {}, PromptError, "shorten"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(
    folder: Path, state: Any, questions: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    model, tokenizer = loaded(folder)
    with pytest.raises(error) as raised:
        decide(model, tokenizer, state, questions, **options)
    assert words in str(raised.value) and "\n" not in str(raised.value)
