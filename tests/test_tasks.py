"""The tasks: every answer passes its own check, wrong answers do not, and held-out keys never occur in training."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion.measure.tasks import DEPENDENT, DETERMINISTIC, FAMILIES, Task, draw, facts, lists, split_of, squares

SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_passes_and_a_damaged_one_does_not(family: str) -> None:
    rng = Random(family)
    for _ in range(50):
        task = FAMILIES[family](rng)
        assert task.family == family
        assert task.is_right(f" {task.answer}\n")
        assert not task.is_right("")
        assert not task.is_right(task.answer + " fig")
        assert not task.is_right(task.answer[: len(task.answer) // 2])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_splits_share_no_key(family: str) -> None:
    rng = Random(family)
    keys = {split: {draw(FAMILIES[family], rng, split).key for _ in range(60)} for split in ("train", "held_out")}
    assert keys["train"].isdisjoint(keys["held_out"])
    assert all(split_of(family, key) == split for split, found in keys.items() for key in found)


def test_the_split_is_fixed_for_ever() -> None:
    """A changed hash would let training see what was held out."""
    held_out = [n for n in range(64) if split_of("to_words", str(n)) == "held_out"]
    assert held_out == HELD_OUT_NUMBERS


HELD_OUT_NUMBERS = [8, 44]


@pytest.mark.parametrize("make", [facts.to_words, facts.to_digits])
def test_training_has_every_number_that_is_a_word_of_its_own(make: Callable[[Random], Task]) -> None:
    """Nothing else would teach them: "zero" is part of no other number."""
    rng = Random(3)
    held_out = {draw(make, rng, "held_out").key for _ in range(300)}
    assert min(int(number) for number in held_out if number is not None) >= 20
    assert None not in held_out


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (13, "thirteen"), (20, "twenty"), (99, "ninety nine"), (100, "one hundred"),
     (4217, "four thousand two hundred seventeen"), (9000, "nine thousand"), (5008, "five thousand eight")],
)  # fmt: skip
def test_numbers_in_words(number: int, words: str) -> None:
    assert facts.in_words(number) == words


@given(SEEDS)
def test_dependent_lists_take_every_right_answer_and_no_other(seed: int) -> None:
    task = lists.shuffle(Random(seed))
    items = task.answer.split()
    assert task.is_right(" ".join(sorted(items)))
    assert not task.is_right(" ".join([items[0], *items[:-1]]))  # one item twice: the mistake of parallel decoding

    task = lists.insert_random(Random(seed))
    prompt = task.messages[0]["content"]
    word, given_items = prompt.split()[1], prompt.partition(": ")[2].split()
    assert all(task.is_right(" ".join([*given_items[:i], word, *given_items[i:]])) for i in range(len(given_items) + 1))
    assert not task.is_right(" ".join(given_items))
    assert not task.is_right(" ".join([word, *given_items, word]))


def test_squares_are_counted_right() -> None:
    assert len(squares.latin_squares()) == 576  # OEIS A002860
    assert len(squares.reduced_squares()) == 4  # OEIS A000315
    assert len(squares.sudoku_squares()) == 288  # OEIS A107739


def test_a_latin_square_starts_as_asked_but_any_of_the_digits_is_right() -> None:
    task = squares.latin(Random(1))
    digits = task.messages[0]["content"].removeprefix("Latin square: ")
    assert task.answer.startswith(digits)
    for square in squares.latin_squares():
        text = "\n".join("".join(digits[cell] for cell in row) for row in square)
        assert task.is_right(text)
        assert not task.is_right(text[: -squares.SIZE] + text[: squares.SIZE])  # the last row is the first one again


def test_a_sudoku_takes_any_solution_of_its_clues() -> None:
    task = _with_several_solutions()
    clues = task.messages[0]["content"].removeprefix("Sudoku:\n").replace("\n", "")
    fitting = []
    for square in squares.sudoku_squares():
        text = "\n".join("".join(str(cell + 1) for cell in row) for row in square)
        fits = all(clue in ("0", cell) for clue, cell in zip(clues, text.replace("\n", ""), strict=True))
        assert task.is_right(text) == fits
        fitting += [text] * fits
    assert len(fitting) > 1
    assert not task.is_right("1234\n1234\n1234\n1234")


def _with_several_solutions() -> Task:
    """Clues that two solutions share: those of the first that a second one has, too."""
    for seed in range(1000):
        task = squares.sudoku(Random(seed))
        solutions = [
            "\n".join("".join(str(cell + 1) for cell in row) for row in square) for square in squares.sudoku_squares()
        ]
        if sum(task.is_right(text) for text in solutions) > 1:
            return task
    raise AssertionError("no such puzzle among a thousand")


def test_families_are_one_kind_each() -> None:
    assert set(FAMILIES) == set(DETERMINISTIC) | set(DEPENDENT)
    assert not set(DETERMINISTIC) & set(DEPENDENT)
