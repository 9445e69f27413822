"""Attention in parts against MLX's own over all keys at once."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.network.split_attention import Part, attend, cut, widest


def normal(shape: tuple[int, ...], seed: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    heads=st.sampled_from([(2, 2), (4, 2), (6, 1)]),
    batch=st.integers(1, 2),
    length=st.integers(1, 5),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    masked=st.sampled_from(["nothing", "by query", "by key"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=80)
def test_parts_are_as_one(
    widths: list[int], heads: tuple[int, int], batch: int, length: int, scale: float, masked: str, seed: int
) -> None:
    count = sum(widths)
    queries = scale * normal((batch, heads[0], length, 8), seed)
    keys, values = (normal((batch, heads[1], count, 8), seed + i) for i in (100, 200))
    shape = {"nothing": None, "by query": (length, count), "by key": (1, count)}[masked]
    mask = None if shape is None else mx.random.bernoulli(0.5, shape, key=mx.random.key(seed))
    if mask is not None:
        mask = mask | (mx.arange(count) == seed % count)  # everybody sees something, in one part at least
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask=mask)
    ends = np.cumsum(widths).tolist()
    cuts = [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]
    got = attend(
        queries, [Part(keys[:, :, own], values[:, :, own], None if mask is None else mask[..., own]) for own in cuts]
    )
    assert got.shape == queries.shape
    assert np.abs(np.array(got - expected)).max() < 1e-5


def test_cuts_cover_all_once() -> None:
    assert cut(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert cut(6, 3) == [slice(0, 3), slice(3, 6)]
    assert widest(16 * 256, 2**23) == 2048 and widest(2**20, 2**23) == 256


@pytest.mark.parametrize("compiled", [False, True])
def test_few_scores_exist_at_a_time(compiled: bool) -> None:
    width = 1024
    queries, keys, values = normal((1, 1, 16, 8), 0), normal((1, 1, 65_536, 8), 1), normal((1, 1, 65_536, 8), 2)
    mx.eval(queries, keys, values)

    def run(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        return attend(queries, [Part(keys[:, :, own], values[:, :, own]) for own in cut(65_536, width)])

    call = mx.compile(run) if compiled else run
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(call(queries, keys, values))
    of_64_parts = 20
    assert mx.get_peak_memory() - before < of_64_parts * 4 * 16 * width
