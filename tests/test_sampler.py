"""The sampler against answers worked out by hand on four tokens, and against a slow NumPy twin."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.engine import sampler
from mlx_diffusion.network import sampling

INF = math.inf


def logits_of(*rows: list[float]) -> mx.array:
    """Logits [1, L, V] of distributions given as probabilities."""
    return mx.log(mx.array([rows], dtype=mx.float32))


def keep(entropies: mx.array, bound: float) -> mx.array:
    return sampler.EntropyBound(bound)(entropies, mx.zeros_like(entropies))


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
    assert sampler.temperature(0, 4, 0.4, 0.8) == pytest.approx(0.8)
    assert sampler.temperature(1, 4, 0.4, 0.8) == pytest.approx(0.7)
    assert sampler.temperature(3, 4, 0.4, 0.8) == pytest.approx(0.5)  # never t_min itself
    assert sampler.temperature(0, 1, 0.0, 0.8) == pytest.approx(0.8)


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
    assert keep(mx.array([entropies]), bound)[0].tolist() == expected


def test_rows_are_accepted_one_by_one() -> None:
    rows = mx.array([[0.9, 0.05, 0.02, 0.06], [0.01, 0.9, 0.9, 0.01]])
    assert keep(rows, 0.1).tolist() == [[False, True, True, True], [True, True, False, True]]


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
    accepted = np.array(keep(mx.array(values[None]), bound))[0]
    assert (accepted == slow_accept(values, bound)).all()
    assert accepted[values.argmin()]
    assert values[accepted].max() <= values[~accepted].min(initial=INF)


def test_confidence_keeps_the_probable_and_always_one() -> None:
    probabilities = mx.array([[0.2, 0.6, 0.59, 0.9], [0.1, 0.1, 0.3, 0.2]])
    kept = sampler.Confidence(0.6)(mx.zeros_like(probabilities), probabilities)
    assert kept.tolist() == [[False, True, False, True], [False, False, True, False]]


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
