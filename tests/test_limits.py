"""Limits are set once, for all runs together, and put back after the last, whichever that is."""

from collections.abc import Iterator

import mlx.core as mx
import pytest
from conftest import FIXTURES

from mlx_diffusion.engine import memory_limits as limits
from mlx_diffusion.engine.memory_limits import CACHE_BYTES, memory_limits
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.loading import load


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other tests may have left a run open."""
    monkeypatch.setattr(limits, "_running", 0)
    before = mx.set_cache_limit(123_456_789)
    yield
    mx.set_cache_limit(before)


def cache_limit() -> int:
    now = mx.set_cache_limit(0)
    mx.set_cache_limit(now)
    return now


def test_runs_that_overlap_put_back_what_was_before_the_first() -> None:
    model, tokenizer = load(FIXTURES / "hub")
    before = cache_limit()
    first, second = (stream_generate(model, tokenizer, [20, 21, 22]) for _ in range(2))
    assert cache_limit() == before
    next(first), next(second)
    assert cache_limit() == CACHE_BYTES != before
    first.close()  # type: ignore[attr-defined]
    assert cache_limit() == CACHE_BYTES
    second.close()  # type: ignore[attr-defined]
    assert cache_limit() == before


def test_a_failing_run_puts_them_back() -> None:
    before = cache_limit()
    with pytest.raises(ZeroDivisionError), memory_limits():
        raise ZeroDivisionError
    assert cache_limit() == before


def test_on_metal_what_the_gpu_may_use_is_wired(monkeypatch: pytest.MonkeyPatch) -> None:
    wired = [5]

    def set_wired_limit(value: int) -> int:
        wired.append(value)
        return wired[-2]

    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 700})
    monkeypatch.setattr(mx, "set_wired_limit", set_wired_limit)
    with memory_limits(), memory_limits():
        assert wired == [5, 700]
    assert wired == [5, 700, 5] and limits._running == 0
