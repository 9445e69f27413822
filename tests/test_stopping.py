"""The stop rules by hand, and the streak against the history of canvases that the reference keeps."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.engine.stopping import agreement, stable_and_confident, through_stop


def test_agreement_counts_equal_canvases_and_starts_again() -> None:
    none, a, b = mx.array([[-1, -1]]), mx.array([[1, 2]]), mx.array([[1, 3]])
    streak = mx.array([0])
    seen = []
    for previous, current in [(none, a), (a, a), (a, a), (a, b), (b, b)]:
        streak = agreement(current, previous, streak)
        seen.append(streak.item())
    assert seen == [0, 1, 2, 0, 1]


def test_rows_have_their_own_streak() -> None:
    streak = agreement(mx.array([[1, 2], [3, 4]]), mx.array([[1, 2], [3, 5]]), mx.array([4, 4]))
    assert streak.tolist() == [5, 0]


@pytest.mark.parametrize(
    ("streak", "mean_entropy", "stability", "stops"),
    [
        (0, 0.0, 0, True),  # 0: stability is not asked for
        (0, 0.0, 1, False),
        (1, 0.0, 1, True),  # 1: two equal canvases
        (1, 0.0, 2, False),
        (2, 0.0, 2, True),
        (9, 0.005, 1, False),  # below the threshold, not at it
        (9, 0.0049, 1, True),
    ],
)
def test_stable_and_confident(streak: int, mean_entropy: float, stability: int, stops: bool) -> None:
    rule = stable_and_confident(mx.array([streak]), mx.array([mean_entropy]), stability, 0.005)
    assert rule.tolist() == [stops]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_the_streak_equals_a_history_of_k_canvases(canvases: list[int], stability: int) -> None:
    history = np.full((stability, 2), -1)
    previous, streak = mx.array([[-1, -1]]), mx.array([0])
    for value in canvases:
        current = np.array([value, 7])
        stable = bool((history == current).all())
        history = np.concatenate([history[1:], current[None]])

        streak = agreement(mx.array(current[None]), previous, streak)
        previous = mx.array(current[None])
        assert stable_and_confident(streak, mx.array([0.0]), stability, 0.005).item() == stable


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([5, 6, 7], ([5, 6, 7], False)),
        ([5, 1, 7], ([5, 1], True)),
        ([3, 1, 7], ([3], True)),
        ([5, 6, 1], ([5, 6, 1], True)),
        ([], ([], False)),
    ],
)
def test_a_text_ends_with_its_first_stop_token(tokens: list[int], expected: tuple[list[int], bool]) -> None:
    assert through_stop(tokens, {1, 3}) == expected
