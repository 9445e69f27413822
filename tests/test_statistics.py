"""Intervals and exact tests, against values worked out by hand or in tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion.measure.answers.statistics import binomial_at_most, holm, sign_test, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_s_interval_as_published(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_is_symmetric(case: tuple[int, int]) -> None:
    right, count = case
    low, high = wilson(right, count)
    assert 0 <= low <= right / count + 1e-12 and right / count - 1e-12 <= high <= 1
    mirrored = wilson(count - right, count)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)


def test_tails_by_hand() -> None:
    assert binomial_at_most(1, 3, 0.5) == pytest.approx(4 / 8)
    assert binomial_at_most(0, 2, 0.9) == pytest.approx(0.01)
    assert binomial_at_most(5, 5, 0.3) == pytest.approx(1)
    assert binomial_at_most(3, 4, 1.0) == 0
    assert binomial_at_most(0, 4, 0.0) == 1


def test_thousands_of_prompts_stay_in_the_range_of_numbers() -> None:
    assert binomial_at_most(2999, 6000, 0.5) == pytest.approx(0.5 - math.comb(6000, 3000) / 2**6001)


def test_the_sign_test_by_hand() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(5, 5) == 1
    assert sign_test(0, 5) == sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(1, 7) == pytest.approx(2 * (1 + 8) / 256)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_equals_a_slow_twin(ups: int, downs: int) -> None:
    outcomes = [math.comb(ups + downs, k) for k in range(ups + downs + 1)]
    as_uneven = sum(ways for ways in outcomes if ways <= outcomes[ups])
    assert sign_test(ups, downs) == pytest.approx(as_uneven / 2 ** (ups + downs))


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9}) == {"a": 0.9}
