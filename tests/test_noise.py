"""Every draw depends on seed, purpose, block and step, on nothing else, and rows share it."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_diffusion.engine.noise import KeyedNoise, Tape, TapedDraws

VOCAB = 1000


def draws(noise: KeyedNoise, block: int, step: int) -> list[np.ndarray]:
    tokens, logits = (2, 50), (2, 50, 20)
    return [
        np.array(array)
        for array in (
            noise.initial(block, tokens),
            noise.gumbel(block, step, logits),
            noise.renoise(block, step, tokens),
        )
    ]


def test_the_same_question_gets_the_same_answer_in_any_order() -> None:
    first = draws(KeyedNoise(7, VOCAB), 3, 4)
    other = KeyedNoise(7, VOCAB)
    draws(other, 0, 0)
    mx.random.seed(99)
    again = draws(other, 3, 4)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_global_random_state_is_left_alone() -> None:
    mx.random.seed(5)
    expected = mx.random.uniform(shape=(4,))
    mx.random.seed(5)
    draws(KeyedNoise(1, VOCAB), 0, 0)
    assert mx.array_equal(mx.random.uniform(shape=(4,)), expected)


@pytest.mark.parametrize("other", [(8, 0, 0), (7, 1, 0), (7, 0, 1), (0, 7, 0), (0, 0, 7)])
def test_seed_block_and_step_each_change_the_draw(other: tuple[int, int, int]) -> None:
    seed, block, step = other
    _, gumbel, renoise = draws(KeyedNoise(7, VOCAB), 0, 0)
    _, other_gumbel, other_renoise = draws(KeyedNoise(seed, VOCAB), block, step)
    assert (gumbel == other_gumbel).mean() < 0.01
    assert (renoise == other_renoise).mean() < 0.05


def test_initial_and_renoise_differ() -> None:
    initial, _, renoise = draws(KeyedNoise(0, VOCAB), 0, 0)
    assert (initial == renoise).mean() < 0.05


def test_a_row_meets_the_same_noise_alone_and_in_a_batch() -> None:
    noise = KeyedNoise(3, VOCAB)
    for alone, batch in (
        (noise.initial(1, (1, 8)), noise.initial(1, (3, 8))),
        (noise.gumbel(1, 2, (1, 8, 16)), noise.gumbel(1, 2, (3, 8, 16))),
        (noise.renoise(1, 2, (1, 8)), noise.renoise(1, 2, (3, 8))),
    ):
        assert batch.shape[0] == 3
        assert all(mx.array_equal(batch[row], alone[0]) for row in range(3))


def test_distributions() -> None:
    noise = KeyedNoise(0, VOCAB)
    tokens = np.array(noise.initial(0, (1, 100_000)))
    assert tokens.dtype == np.int32
    assert tokens.min() == 0 and tokens.max() == VOCAB - 1
    assert abs(tokens.mean() - (VOCAB - 1) / 2) < 4
    gumbel = np.array(noise.gumbel(0, 0, (1, 100, 1000)))
    assert gumbel.dtype == np.float32
    assert abs(gumbel.mean() - np.euler_gamma) < 0.02
    assert abs(gumbel.var() - np.pi**2 / 6) < 0.05


def test_a_seed_may_be_as_large_as_anybody_likes() -> None:
    first, second = draws(KeyedNoise(2**64 + 1, VOCAB), 0, 0)[0], draws(KeyedNoise(1, VOCAB), 0, 0)[0]
    assert (first == second).mean() < 0.05


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_of_one_age_ask_a_tape_once_and_a_single_row_leaves_nothing_behind(rows: int) -> None:
    before, asked = mx.get_active_memory(), []

    class Asked(KeyedNoise):
        def gumbel(self, block: int, step: int, shape: tuple[int, ...]) -> mx.array:
            asked.append(step)
            return super().gumbel(block, step, shape)

    tape = Tape(Asked(0, VOCAB), rows, VOCAB)
    for step in range(5):
        mx.eval([TapedDraws(tape, row).gumbel(0, step, 100) for row in range(rows)])
    assert asked == [0, 1, 2, 3, 4]
    if rows == 1:
        assert mx.get_active_memory() - before < 4 * 100 * VOCAB
