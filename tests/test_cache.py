"""What the cache holds, and that encoding in chunks equals encoding at once."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import config_dict, hub_tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint import weights
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.network.cache import LayerCache, PrefixCache, room
from mlx_diffusion.network.model import DiffusionGemma

MODELS: dict[int, DiffusionGemma] = {}


def model_with_window(window: int) -> DiffusionGemma:
    if window not in MODELS:
        config = ModelConfig.from_dict(config_dict(sliding_window=window))
        MODELS[window] = DiffusionGemma(config)
        weights.fill(MODELS[window], hub_tensors(config), None, where="test")
    return MODELS[window]


def entry(*positions: int) -> mx.array:
    """Keys [1, 1, n, 1] that carry their positions."""
    return mx.array(positions, dtype=mx.float32)[None, None, :, None]


def held(cache: LayerCache) -> list[float]:
    assert cache.keys is not None and cache.values is not None
    assert cache.keys.shape[:3] == cache.values.shape[:3]
    return np.asarray(cache.keys[:, :, : cache.held]).flatten().tolist()


def test_a_sliding_layer_returns_what_is_seen_and_keeps_window_less_one() -> None:
    cache = LayerCache(window=3)
    keys, _ = cache.append(entry(0, 1, 2, 3), entry(0, 1, 2, 3))
    assert keys.flatten().tolist() == [0, 1, 2, 3] and held(cache) == [2, 3]
    keys, values = cache.append(entry(4), entry(4))
    assert keys.flatten().tolist() == values.flatten().tolist() == [2, 3, 4]
    assert held(cache) == [3, 4]


def test_a_full_layer_keeps_all() -> None:
    cache = LayerCache(window=None)
    cache.append(entry(0, 1), entry(0, 1))
    keys, _ = cache.append(entry(2), entry(2))
    assert keys.flatten().tolist() == [0, 1, 2] == held(cache)


def test_new_positions_are_written_in_place() -> None:
    """Into arrays that have room, unless somebody else holds them: he keeps what he has."""
    cache = LayerCache(window=None)
    cache.append(entry(*range(60)), entry(*range(60)))
    mx.eval(cache.keys, cache.values)
    taken = []
    for keys in (None, cache.keys):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        cache.append(mx.full((1, 1, 1, 1), 7.0), mx.full((1, 1, 1, 1), 7.0))
        mx.eval(cache.keys, cache.values)
        taken.append(mx.get_peak_memory() - before)
        if keys is not None:
            assert keys.shape[2] == 64 and keys[0, 0, 61, 0].item() == 0
    assert held(cache) == [*range(60), 7, 7]


@pytest.mark.parametrize("window", [None, 6, 1024])
def test_room_comes_in_few_sizes(window: int | None) -> None:
    counts = [count if window is None else min(count, window - 1) for count in range(1, 262_145, 37)]
    rooms = [room(count, window) for count in counts]
    spare = [most - count for count, most in zip(counts, rooms, strict=True)]
    assert all(0 <= more <= min(max(63, count / 4), 8191) for count, more in zip(counts, spare, strict=True))
    assert len(set(rooms)) <= 63
    assert room(262_144, None) == 262_144 and room(0, window) == 0


def test_sliding_layers_hold_no_more_than_the_window_needs() -> None:
    model = model_with_window(6)
    cache = model.make_cache([0])
    assert cache.arrays() == [] and cache.nbytes == 0
    model.encode(mx.arange(3, 43)[None], cache)
    assert [keys.shape[2] for keys in cache.arrays()[::2]] == [5, 5, 64]
    assert cache.offset == 40
    # Two sliding layers of 2 heads of 16 for 5 positions, one full layer of 1 head of 32 with room for 64; K and V in
    # float32.
    assert cache.nbytes == cache.bytes_at(40, 4) == 2 * 4 * (2 * 5 * 2 * 16 + 64 * 32)


def test_memory_behind_dropped_positions_is_freed() -> None:
    model = model_with_window(6)
    cache = model.make_cache([0])
    tokens = mx.zeros((1, 400), dtype=mx.int32)
    mx.eval(tokens)
    before = mx.get_active_memory()
    model.encode(tokens, cache)
    mx.eval(cache.arrays())
    assert mx.get_active_memory() - before < cache.nbytes + 4096


def test_denoising_reads_the_cache_and_writes_nothing() -> None:
    model = model_with_window(6)
    cache = model.make_cache([0, 2])
    model.encode(mx.array([[5, 6, 7, 8], [0, 0, 9, 10]]), cache)
    before = [np.asarray(array) for array in cache.arrays()]
    mx.eval(model.denoise(mx.array([[3] * 8, [4] * 8]), None, cache))
    assert cache.offset == 4
    assert all((a == np.asarray(b)).all() for a, b in zip(before, cache.arrays(), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    window=st.sampled_from([1, 2, 5, 6]),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    padding=st.sampled_from([(0,), (0, 3), (2, 7, 0)]),
    seed=st.integers(0, 99),
)
def test_chunks_equal_the_whole(window: int, chunks: list[int], padding: tuple[int, ...], seed: int) -> None:
    model, total = model_with_window(window), sum(chunks)
    pads = [min(count, total - 1) for count in padding]
    rng = np.random.default_rng(seed)
    tokens = mx.array(rng.integers(3, 64, (len(pads), total)))
    canvas = mx.array(rng.integers(3, 64, (len(pads), 7)))

    whole, parts = model.make_cache(pads), model.make_cache(pads)
    expected = model.encode(tokens, whole)
    start, hidden = 0, []
    for count in chunks:
        hidden.append(model.encode(tokens[:, start : start + count], parts))
        start += count
    assert parts.offset == whole.offset == total
    assert np.abs(np.asarray(mx.concatenate(hidden, axis=1)) - np.asarray(expected)).max() < 1e-5
    for a, b in zip(parts.arrays(), whole.arrays(), strict=True):
        assert a.shape == b.shape
    logits = [np.asarray(model.denoise(canvas, None, cache)) for cache in (whole, parts)]
    assert np.abs(logits[0] - logits[1]).max() < 1e-4


@pytest.mark.parametrize("padding", [[], [-1]])
def test_padding_must_be_counts(padding: list[int]) -> None:
    with pytest.raises(ValueError, match="left_padding"):
        PrefixCache(ModelConfig.from_dict(config_dict()), padding)
