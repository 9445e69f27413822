"""The choice of tokens: filters as mlx-lm has them, noise that belongs to a position, likelihoods."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

from mlx_diffusion.engine.choice import choose, filtered
from mlx_diffusion.engine.noise import PositionNoise, SeededDraws
from mlx_diffusion.options import GenerationConfig, Settings


def settings(**options: Any) -> Settings:
    return GenerationConfig(mode="autoregressive", **options).resolve()


LOGITS = mx.array(np.random.default_rng(0).normal(size=(7, 50)).astype(np.float32) * 3)
LOGPROBS = LOGITS - mx.logsumexp(LOGITS, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("options", "peer"),
    [
        ({"top_p": 0.7}, lambda x: sample_utils.apply_top_p(x, 0.7)),
        ({"top_k": 5}, lambda x: sample_utils.apply_top_k(x, 5)),
        ({"min_p": 0.1}, lambda x: sample_utils.apply_min_p(x, 0.1)),
        (
            {"top_p": 0.9, "min_p": 0.02, "top_k": 4},
            lambda x: sample_utils.apply_top_k(sample_utils.apply_min_p(sample_utils.apply_top_p(x, 0.9), 0.02), 4),
        ),
        ({"top_p": 1.0, "top_k": 0, "min_p": 0.0}, lambda x: x),
        ({"top_k": 50}, lambda x: x),
        ({"top_k": 500}, lambda x: x),
    ],
    ids=str,
)
def test_filters_are_those_of_mlx_lm(options: dict[str, float], peer: Any) -> None:
    mx.disable_compile()  # of mlx-lm's functions, which would call a C++ compiler
    try:
        expected = peer(LOGPROBS)
    finally:
        mx.enable_compile()
    assert mx.array_equal(filtered(LOGPROBS, settings(temperature=1.0, **options)), expected)


def test_bias_and_penalty_change_the_logits_as_mlx_lm_does() -> None:
    before = [[3, 4, 3, 9], [], [1], [49], [0, 1, 2], [7] * 30, [5, 6, 7, 8, 9]]
    own = settings(repetition_penalty=1.3, repetition_context_size=3, logit_bias={4: 2.5, 9: -80.0}, logprobs=50)
    found = choose(LOGITS, own, None, before)
    for row, tokens in enumerate(before):
        logits = LOGITS[row : row + 1]
        bias, penalty = sample_utils.make_logits_processors({4: 2.5, 9: -80.0}, 1.3, 3)
        expected = penalty(mx.array(tokens, dtype=mx.int32), bias(mx.array([]), logits) + 0)
        expected = expected - mx.logsumexp(expected, axis=-1, keepdims=True)
        order = np.array(found.top_tokens[row])
        assert np.array_equal(np.array(found.top_logprobs[row]), np.array(expected[0])[order])
        assert sorted(order) == list(range(50))
        assert found.tokens[row].item() == mx.argmax(expected).item()


def test_a_choice_worked_out_by_hand() -> None:
    logits = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]]))
    noise = mx.array([[0.0, 1.0, 2.5, 9.0]])
    greedy = choose(logits, settings(logprobs=2), None, None)
    assert (greedy.tokens.item(), greedy.top_tokens.tolist()) == (0, [[0, 1]])
    assert greedy.logprobs.item() == pytest.approx(math.log(0.5))
    assert np.array(greedy.top_logprobs[0]) == pytest.approx([math.log(0.5), math.log(0.3)])
    # log p / T + noise at T = 0.5: -1.39, -1.41, -1.29, 3.01, of which top_p = 0.9 leaves out the last
    assert choose(logits, settings(temperature=0.5), noise, None).tokens.item() == 3
    sampled = choose(logits, settings(temperature=0.5, top_p=0.9), noise, None)
    assert sampled.tokens.item() == 2
    assert sampled.logprobs.item() == pytest.approx(math.log(0.15))


def test_sampling_draws_from_the_distribution() -> None:
    logits = mx.log(mx.array([0.6, 0.3, 0.1]))
    count = 4000
    noise = PositionNoise(SeededDraws.of(3, 3), 3).at(100, count)
    drawn = choose(mx.broadcast_to(logits, (count, 3)), settings(temperature=1.0), noise, None).tokens
    shares = np.bincount(np.array(drawn), minlength=3) / count
    assert np.abs(shares - [0.6, 0.3, 0.1]).max() < 3 * math.sqrt(0.25 / count)


def test_noise_belongs_to_its_position() -> None:
    """However many are drawn at once, and whatever was drawn before; another seed's is another."""
    whole = PositionNoise(SeededDraws.of(3, 1000), 1000).at(40, 20)
    noise = PositionNoise(SeededDraws.of(3, 1000), 1000)
    for first, count in ((45, 3), (46, 1), (41, 9), (50, 10), (59, 1)):
        assert mx.array_equal(noise.at(first, count), whole[first - 40 : first - 40 + count])
    assert not mx.array_equal(PositionNoise(SeededDraws.of(4, 1000), 1000).at(40, 1), whole[:1])
    assert len(set(np.array(whole[:, 0]))) == 20
