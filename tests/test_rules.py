"""The rules against answers worked out by hand on four tokens, and against slow NumPy twins."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.engine import rules
from mlx_diffusion.engine.rules import Canvas, Rules, agreement, stable_and_confident, through_stop
from mlx_diffusion.network import sampling
from mlx_diffusion.network.head import Survey
from mlx_diffusion.options import DEFAULTS

INF = math.inf


def logits_of(*rows: list[float]) -> mx.array:
    """Logits [1, L, V] of distributions given as probabilities."""
    return mx.log(mx.array([rows], dtype=mx.float32))


def survey_of(entropies: mx.array, probabilities: mx.array | None = None) -> Survey:
    """A survey of which only this matters."""
    none = mx.zeros_like(entropies)
    return Survey(none, none, none if probabilities is None else probabilities, entropies, none, none)


def rules_of(bound: float = 0.1, stability: int = 1, confidence: float = 0.005) -> Rules:
    settings = replace(
        DEFAULTS, entropy_bound=bound, stability_threshold=stability, confidence_threshold=confidence, eos_token_id=(1,)
    )
    return Rules.of(settings)


def keep(entropies: mx.array, bound: float) -> mx.array:
    survey = survey_of(entropies)
    return rules.within_entropy_bound(survey, Canvas(entropies, survey, mx.array(0)), rules_of(bound))


def slow_accept(entropies: np.ndarray, bound: float) -> np.ndarray:
    """Positions of one row, taken one by one from the most certain on, until the sum before exceeds the bound."""
    accepted, before = np.zeros(len(entropies), dtype=bool), np.float32(0)
    for position in np.argsort(entropies, kind="stable"):
        if before > bound:
            break
        accepted[position] = True
        before += entropies[position]
    return accepted


def test_temperature_falls_from_t_max_towards_t_min() -> None:
    assert rules.temperature(0, 4, 0.4, 0.8) == pytest.approx(0.8)
    assert rules.temperature(1, 4, 0.4, 0.8) == pytest.approx(0.7)
    assert rules.temperature(3, 4, 0.4, 0.8) == pytest.approx(0.5)  # never t_min itself
    assert rules.temperature(0, 1, 0.0, 0.8) == pytest.approx(0.8)


def test_entropy_by_hand() -> None:
    logits = logits_of([0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.5, 0.25, 0.125, 0.125])
    expected = [math.log(4), math.log(2), 0.0, 1.75 * math.log(2)]
    assert np.array(sampling.entropy(logits))[0] == pytest.approx(expected, abs=1e-6)


def test_entropy_does_not_depend_on_an_offset() -> None:
    logits = mx.array([[[1.0, 2.0, 3.0, 4.0]]])
    assert sampling.entropy(logits + 50).item() == pytest.approx(sampling.entropy(logits).item(), abs=1e-5)


def test_entropy_of_nan_is_nan() -> None:
    assert mx.isnan(sampling.entropy(mx.array([[[1.0, math.nan, 0.0, 0.0]]]))).item()


@pytest.mark.parametrize(
    ("entropies", "bound", "expected"),
    [
        # Sorted: .02 .05 .06 .9; the sums before each: 0 .02 .07 .13.
        ([0.9, 0.05, 0.02, 0.06], 0.1, [False, True, True, True]),
        ([0.9, 0.05, 0.02, 0.06], 0.05, [False, True, True, False]),
        ([0.9, 0.05, 0.02, 0.06], 0.14, [True, True, True, True]),
        ([0.9, 0.8, 0.7, 0.6], 0.1, [False, False, False, True]),  # the most certain one always
        ([0.0, 0.0, 0.0, 0.0], 0.1, [True, True, True, True]),
        ([0.5, 0.25, 0.5, 0.25], 0.25, [False, True, False, True]),  # a sum equal to the bound is within it
    ],
)
def test_acceptance_by_hand(entropies: list[float], bound: float, expected: list[bool]) -> None:
    assert keep(mx.array(entropies), bound).tolist() == expected


@given(
    st.lists(st.floats(0, 3, width=32), min_size=1, max_size=40),
    st.floats(0.015625, 5, width=32),
)
@settings(deadline=None, max_examples=80)
def test_acceptance_equals_the_slow_twin(entropies: list[float], bound: float) -> None:
    values = np.array(entropies, dtype=np.float32)
    prefix = np.cumsum(np.sort(values))
    if np.isclose(prefix, bound, rtol=1e-5).any():
        return  # decided by the last bit
    accepted = np.array(keep(mx.array(values), bound))
    assert (accepted == slow_accept(values, bound)).all()
    assert accepted[values.argmin()]
    assert values[accepted].max() <= values[~accepted].min(initial=INF)


@pytest.mark.parametrize(
    ("probabilities", "kept"),
    [([0.2, 0.6, 0.59, 0.9], [False, True, False, True]), ([0.1, 0.1, 0.3, 0.2], [False, False, True, False])],
)
def test_confidence_keeps_the_probable_and_always_one(probabilities: list[float], kept: list[bool]) -> None:
    survey = survey_of(mx.zeros(4), mx.array(probabilities))
    assert rules.Confidence(0.6)(survey, Canvas(survey.argmax, survey, mx.array(0)), rules_of()).tolist() == kept


def test_the_probability_of_a_token_by_hand() -> None:
    logits = logits_of([0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4])
    assert sampling.probability(logits, mx.array([[1, 3]]))[0].tolist() == pytest.approx([0.25, 0.4])


def test_a_sample_is_the_argmax_of_logits_and_noise() -> None:
    logits = mx.array([[[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]]])
    assert sampling.sample(logits, mx.zeros_like(logits)).tolist() == [[3, 0]]
    gumbel = mx.array([[[9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.5]]])
    tokens = sampling.sample(logits, gumbel)
    assert tokens.tolist() == [[0, 0]]
    assert tokens.dtype == mx.int32


def test_samples_follow_the_distribution() -> None:
    probabilities = [0.5, 0.3, 0.15, 0.05]
    logits = mx.broadcast_to(logits_of(probabilities), (1, 40_000, 4))
    gumbel = mx.random.gumbel(logits.shape, key=mx.random.key(0))
    counts = np.bincount(np.array(sampling.sample(logits, gumbel))[0], minlength=4) / 40_000
    assert counts == pytest.approx(probabilities, abs=0.01)


def test_agreement_counts_equal_canvases_and_starts_again() -> None:
    none, a, b = mx.array([-1, -1]), mx.array([1, 2]), mx.array([1, 3])
    streak = mx.array(0)
    seen = []
    for previous, current in [(none, a), (a, a), (a, a), (a, b), (b, b)]:
        streak = agreement(current, previous, streak)
        seen.append(streak.item())
    assert seen == [0, 1, 2, 0, 1]


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
    survey = survey_of(mx.array([mean_entropy, mean_entropy]))
    assert stable_and_confident(mx.array(streak), survey, rules_of(stability=stability)).item() == stops


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_the_streak_equals_a_history_of_k_canvases(canvases: list[int], stability: int) -> None:
    history = np.full((stability, 2), -1)
    previous, streak = mx.array([-1, -1]), mx.array(0)
    for value in canvases:
        current = np.array([value, 7])
        stable = bool((history == current).all())
        history = np.concatenate([history[1:], current[None]])

        streak = agreement(mx.array(current), previous, streak)
        previous = mx.array(current)
        survey = survey_of(mx.zeros(2))
        assert stable_and_confident(streak, survey, rules_of(stability=stability)).item() == stable


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
