"""One pass over the vocabulary says what whole logits say, however it is cut; and no array of its width is made."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.device import After, evaluated_after
from mlx_diffusion.engine import noise
from mlx_diffusion.engine.noise import KeyedNoise
from mlx_diffusion.network import head, sampling
from mlx_diffusion.network.head import Rows, Survey, softcapped, survey_logits, survey_vocabulary
from mlx_diffusion.network.sampling import columns, gumbel_columns, handicaps

HIDDEN, SOFTCAP, TEMPERATURE = 64, 30.0, 0.6
FORMATS = [None, (64, 8, "affine"), (32, 3, "affine"), (32, 4, "mxfp4"), (16, 4, "nvfp4")]


def cut_at(columns: int, patch: pytest.MonkeyPatch) -> None:
    for module in (head, noise, sampling):
        patch.setattr(module, "columns", lambda vocab_size: columns)


def table_of(vocab_size: int, spec: tuple[int, int, str] | None, scale: float = 1.0) -> nn.Embedding:
    table = nn.Embedding(vocab_size, HIDDEN)
    table.weight = scale * mx.random.normal((vocab_size, HIDDEN), key=mx.random.key(1))
    return table if spec is None else table.to_quantized(*spec)


def both(table: nn.Embedding, hidden: mx.array, gumbel: mx.array) -> tuple[Survey, Survey]:
    """The survey in chunks, and the slow twin's."""
    logits = softcapped(Rows.of(table).project(hidden), SOFTCAP) / TEMPERATURE
    return surveyed(hidden, table, gumbel), survey_logits(logits, table, gumbel)


def surveyed(hidden: mx.array, table: nn.Embedding, source: mx.array, after: After = mx.depends) -> Survey:
    """The survey of one row's positions, [L, D]."""
    shape = hidden.shape[0], table.weight.shape[0]

    def lowered(sources: Sequence[mx.array], first: int) -> mx.array:
        return handicaps(sources[0], first, shape)

    return survey_vocabulary(hidden, table, SOFTCAP, 1.0, TEMPERATURE, [source], lowered, after)


def test_handicaps_are_the_noise_of_mlx_negated() -> None:
    key = mx.random.key(3)
    whole = mx.concatenate([gumbel_columns(key, first, (9, 100)) for first in range(0, 100, columns(100))], axis=1)
    drawn = [mx.random.gumbel((9, 25), key=key + mx.array([0, part], dtype=mx.uint32)) for part in range(4)]
    assert mx.array_equal(whole, mx.concatenate(drawn, axis=1))
    assert mx.array_equal(handicaps(key, 50, (9, 100)), -whole[:, 50:75])
    assert mx.array_equal(handicaps(whole, 50, (9, 100)), -whole[:, 50:75])


@pytest.mark.parametrize("spec", FORMATS, ids=str)
@pytest.mark.parametrize("columns", [1, 7, 99, 100, 101, 250, 300])
def test_chunks_say_what_the_whole_says(
    columns: int, spec: tuple[int, int, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(columns, monkeypatch)
    hidden = mx.random.normal((10, HIDDEN), key=mx.random.key(2))
    fast, slow = both(table_of(300, spec), hidden, mx.random.gumbel((10, 300), key=mx.random.key(3)))
    assert mx.array_equal(fast.argmax, slow.argmax)
    assert mx.array_equal(fast.sample, slow.sample)
    for ours, twin in zip(fast[2:], slow[2:], strict=True):
        assert np.abs(np.array(ours - twin)).max() < 1e-5


@given(scale=st.sampled_from([0.0, 0.01, 1.0, 100.0]), vocab=st.integers(1, 40), columns=st.integers(1, 41))
@settings(deadline=None, max_examples=60)
def test_flat_and_certain_positions_too(scale: float, vocab: int, columns: int) -> None:
    """All logits equal (ties go to the first token), or all but one at the softcap's floor."""
    with pytest.MonkeyPatch.context() as patch:
        cut_at(columns, patch)
        hidden = mx.random.normal((3, HIDDEN), key=mx.random.key(vocab))
        fast, slow = both(table_of(vocab, None, scale), hidden, mx.zeros((3, vocab)))
    assert mx.array_equal(fast.argmax, slow.argmax)
    assert mx.array_equal(fast.sample, fast.argmax)
    assert np.abs(np.array(fast.entropy - slow.entropy)).max() < 1e-5
    assert np.abs(np.array(fast.probability - slow.probability)).max() < 1e-5
    assert np.isfinite(np.array(fast.soft)).all()


def test_a_nan_shows_in_the_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(20, monkeypatch)
    hidden = mx.zeros((2, HIDDEN)).at[1, 0].add(float("nan"))
    fast, _ = both(table_of(50, None), hidden, mx.zeros((2, 50)))
    assert np.isnan(np.array(fast.entropy)).tolist() == [False, True]


def test_a_key_stands_for_the_noise_that_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(30, monkeypatch)
    keyed, table, hidden = KeyedNoise(5, 100), table_of(100, None, 0.1), mx.random.normal((9, HIDDEN))
    surveys = [
        surveyed(hidden, table, source) for source in (keyed.gumbel_key(3, 4), keyed.gumbel(3, 4, (1, 9, 100))[0])
    ]
    assert mx.array_equal(surveys[0].sample, surveys[1].sample)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_array_of_the_vocabularys_width_is_made(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vocab_size, length = 40_000, 32
    cut_at(500, monkeypatch)
    table, hidden = table_of(vocab_size, None), mx.random.normal((length, HIDDEN))
    key = KeyedNoise(0, vocab_size).gumbel_key(0, 0)
    mx.eval(table.weight, hidden, key)

    def run(hidden: mx.array, key: mx.array) -> tuple[mx.array, ...]:
        return tuple(surveyed(hidden, table, key))

    call = mx.compile(run) if compiled else run
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(call(hidden, key))
    whole = 4 * length * vocab_size
    assert mx.get_peak_memory() - before < 0.5 * whole


def test_on_a_cpu_a_chunk_is_gone_before_the_next_begins() -> None:
    vocab_size, length = 40_000, 32
    table, hidden = table_of(vocab_size, None), mx.random.normal((length, HIDDEN))
    key = KeyedNoise(0, vocab_size).gumbel_key(0, 0)
    mx.eval(table.weight, hidden, key)
    surveys, peaks = [], []
    for after in (mx.depends, evaluated_after):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        surveys.append(surveyed(hidden, table, key, after))
        mx.eval(surveys[-1])
        peaks.append(mx.get_peak_memory() - before)
    assert all(map(mx.array_equal, *surveys))
    assert peaks[1] < 6 * 4 * length * columns(vocab_size) < peaks[0]
