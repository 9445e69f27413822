"""What the cache holds, and that encoding in chunks equals encoding at once."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import config_dict, hub_tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint import weights
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.network.cache import LayerCache, capacity
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage

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


def test_a_sliding_layer_gives_what_is_seen_and_keeps_somewhat_more() -> None:
    cache = LayerCache(window=3, spare=1)
    keys, _ = cache.append(entry(0, 1, 2, 3), entry(0, 1, 2, 3))
    assert keys.flatten().tolist() == [0, 1, 2, 3] and held(cache) == [1, 2, 3]
    keys, values = cache.append(entry(4), entry(4))
    assert keys.flatten().tolist() == values.flatten().tolist() == [2, 3, 4]
    assert held(cache) == [2, 3, 4]


def test_a_full_layer_keeps_all() -> None:
    cache = LayerCache(window=None, spare=1)
    cache.append(entry(0, 1), entry(0, 1))
    keys, _ = cache.append(entry(2), entry(2))
    assert keys.flatten().tolist() == [0, 1, 2] == held(cache)


def test_new_positions_are_written_in_place() -> None:
    """Into arrays that have room, unless somebody else holds them: he keeps what he has."""
    cache = LayerCache(window=None, spare=0)
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
    rooms = [capacity(count, window) for count in counts]
    spare = [most - count for count, most in zip(counts, rooms, strict=True)]
    assert all(0 <= more <= min(max(63, count / 4), 8191) for count, more in zip(counts, spare, strict=True))
    assert len(set(rooms)) <= 63
    assert capacity(262_144, None) == 262_144 and capacity(0, window) == 0


def test_sliding_layers_hold_what_the_window_and_a_canvas_need() -> None:
    model = model_with_window(6)
    cache = model.make_cache()
    assert cache.arrays() == [] and cache.nbytes == 0
    model.encode([Passage(mx.arange(3, 43), cache)])
    assert [keys.shape[2] for keys in cache.arrays()[::2]] == [13, 13, 64]
    assert cache.offset == 40
    # Two sliding layers of 2 heads of 16 for 5 positions and a canvas of 8, one full layer of 1 head of 32 with room
    # for 64; K and V in float32.
    assert cache.nbytes == cache.bytes_at(40, 4) == 2 * 4 * (2 * 13 * 2 * 16 + 64 * 32)


def test_memory_behind_dropped_positions_is_freed() -> None:
    model = model_with_window(6)
    cache = model.make_cache()
    tokens = mx.zeros((400,), dtype=mx.int32)
    mx.eval(tokens)
    before = mx.get_active_memory()
    model.encode([Passage(tokens, cache)])
    mx.eval(cache.arrays())
    reused = 4 * 13 * 2 * 16 * 4  # MLX may reuse a freed buffer of up to twice the size
    assert mx.get_active_memory() - before < cache.nbytes + reused + 4096


def test_a_window_of_one_holds_nothing() -> None:
    cache = LayerCache(window=1, spare=0)
    keys, _ = cache.append(entry(0, 1, 2), entry(0, 1, 2))
    assert keys.flatten().tolist() == [0, 1, 2] and held(cache) == []
    keys, _ = cache.append(entry(3), entry(3))
    assert keys.flatten().tolist() == [3]
    assert cache.keys is not None and cache.keys.size == 0


def test_denoising_reads_the_cache_and_writes_nothing() -> None:
    model = model_with_window(6)
    cache = model.make_cache()
    model.encode([Passage(mx.array([5, 6, 7, 8]), cache)])
    before = [np.asarray(array) for array in cache.arrays()]
    mx.eval(model.denoise(mx.array([3] * 8), None, cache))
    assert cache.offset == 4
    assert all((a == np.asarray(b)).all() for a, b in zip(before, cache.arrays(), strict=True))


@settings(max_examples=25, deadline=None)
@given(
    window=st.sampled_from([1, 2, 5, 6]),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_chunks_equal_the_whole(window: int, chunks: list[int], seed: int) -> None:
    model, total = model_with_window(window), sum(chunks)
    rng = np.random.default_rng(seed)
    tokens, canvas = mx.array(rng.integers(3, 64, total)), mx.array(rng.integers(3, 64, 7))

    whole, parts = model.make_cache(), model.make_cache()
    expected = model.encode([Passage(tokens, whole)])
    start, hidden = 0, []
    for count in chunks:
        hidden.append(model.encode([Passage(tokens[start : start + count], parts)]))
        start += count
    assert parts.offset == whole.offset == total
    assert np.abs(np.asarray(mx.concatenate(hidden)) - np.asarray(expected)).max() < 1e-5
    for a, b in zip(parts.arrays(), whole.arrays(), strict=True):
        assert a.shape == b.shape
    logits = [np.asarray(model.denoise(canvas, None, cache)) for cache in (whole, parts)]
    assert np.abs(logits[0] - logits[1]).max() < 1e-4


@settings(max_examples=15, deadline=None)
@given(
    window=st.sampled_from([1, 2, 5, 6]),
    work=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8)), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_what_is_taken_back_was_never_there(window: int, work: list[tuple[int, int]], seed: int) -> None:
    """Any encoding and taking back of up to a canvas, in a cache whose forks go on untouched: as if encoded plainly."""
    model, rng = model_with_window(window), np.random.default_rng(seed)
    cache, text = model.make_cache(), np.zeros(0, np.int64)
    forks = []
    for added, taken_back in work:
        new = rng.integers(3, 64, added)
        model.encode([Passage(mx.array(new), cache)])
        text = np.concatenate([text, new])
        forks.append((cache.fork(), text))
        count = min(taken_back, added)
        cache.rewind(count)
        text = text[: len(text) - count]
    canvas = mx.array(rng.integers(3, 64, 7))
    for own, tokens in [*forks, (cache, text)]:
        assert own.offset == len(tokens)
        plain = model.make_cache()
        if len(tokens):
            model.encode([Passage(mx.array(tokens), plain)])
        ours, expected = (np.asarray(model.denoise(canvas, None, one)) for one in (own, plain))
        assert np.abs(ours - expected).max() < 1e-4


def test_more_than_is_held_cannot_be_taken_back() -> None:
    model = model_with_window(6)
    cache = model.make_cache()
    model.encode([Passage(mx.arange(3, 43), cache)])
    cache.rewind(8)
    with pytest.raises(ValueError, match="1 of 32 positions cannot be taken back"):
        cache.rewind(1)
    assert cache.offset == 32


def test_a_fork_copies_nothing() -> None:
    model = model_with_window(6)
    cache = model.make_cache()
    model.encode([Passage(mx.arange(3, 43), cache)])
    mx.eval(cache.arrays())
    before = mx.get_active_memory()
    fork = cache.fork()
    mx.eval(fork.arrays())
    assert mx.get_active_memory() == before and fork.offset == 40


@pytest.mark.parametrize("window", [1, 2, 6])
def test_a_cache_that_takes_less_back_can_take_an_encoding_over(window: int) -> None:
    """As if it had been encoded plainly, both what a canvas sees and what is encoded next."""
    model, text = model_with_window(window), mx.arange(3, 43)
    cache, plain = model.make_cache(), model.make_cache(spare=0)
    heir = model.make_cache(spare=0)
    for own in (cache, plain):
        model.encode([Passage(text, own)])
    full, sliding = cache.split()
    heir.restore(cache.offset, {**full, **sliding})
    for new in (mx.array([5, 9]), mx.array([11])):
        ours, expected = (np.asarray(model.denoise(mx.arange(8), None, own)) for own in (heir, plain))
        assert np.abs(ours - expected).max() < 1e-4
        for own in (heir, plain):
            model.encode([Passage(new, own)])
