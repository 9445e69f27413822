"""How matrices lie in memory, and how many cores multiply them, is a matter of speed alone."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES

from mlx_diffusion import device
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.convert import convert
from mlx_diffusion.loading import load
from mlx_diffusion.network.rows import Passage, View


def logits_and_cache() -> list[np.ndarray]:
    model, _ = load(FIXTURES / "hub")
    caches = [model.make_cache(), model.make_cache()]
    tokens = [mx.arange(20, 30), mx.arange(33, 40)]
    hidden = model.encode([Passage(*row) for row in zip(tokens, caches, strict=True)])
    logits = [model.denoise(mx.arange(40, 48), None, cache) for cache in caches]
    return [np.array(array) for array in (hidden, *logits, *caches[0].arrays(), *caches[1].arrays())]


def test_a_model_laid_out_for_a_cpu_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out = logits_and_cache()
    monkeypatch.setattr(device, "transposed", lambda matrix: matrix.swapaxes(-1, -2))
    for module in ("checkpoint.weights", "network.split_attention"):
        monkeypatch.setattr(f"mlx_diffusion.{module}.transposed", device.transposed)
    for ours, plain in zip(laid_out, logits_and_cache(), strict=True):
        assert np.abs(ours - plain).max() < 1e-5


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 6, 8), (1, 7)])
def test_a_transposed_matrix_on_either_device(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = mx.random.normal(shape, key=mx.random.key(0))
    for on_cpu in (True, False):
        monkeypatch.setattr(device, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        assert mx.array_equal(device.transposed(matrix), matrix.swapaxes(-1, -2))


@pytest.mark.parametrize("recipe", ["bf16", "4bit", "mxfp4"])
def test_all_cores_compute_what_one_does(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(DEMO_FOLDER, tmp_path / "converted", recipe)

    def step() -> list[np.ndarray]:
        model, _ = load(tmp_path / "converted")
        caches = [model.make_cache() for _ in range(4)]
        for cache, end in zip(caches, (31, 24, 22, 40), strict=True):
            model.encode([Passage(mx.arange(20, end), cache)])
        gumbels = [mx.random.key(row) for row in range(4)]
        views = [View(mx.arange(40, 47 - row), model.no_signal(7 - row), caches[row].prefix()) for row in range(4)]
        seen = model.survey(views, [mx.array([0.5])] * 4, gumbels)
        encoded = [array for cache in caches for array in cache.arrays()]
        return [np.array(array) for array in [*encoded, *(one for row in seen for one in row.survey)]]

    alone = step()
    streams = set()
    new_stream = mx.stream

    def counted(stream: mx.ThreadLocalStream) -> mx.StreamContext:
        streams.add(id(stream))
        return new_stream(stream)

    monkeypatch.setattr(device, "LEAST_WORK", 1)
    monkeypatch.setattr(device, "cores", lambda: 3)
    monkeypatch.setattr(mx, "stream", counted)
    device._streams.cache_clear()
    for ours, plain in zip(step(), alone, strict=True):
        assert np.array_equal(ours, plain)
    device._streams.cache_clear()
    assert len(streams) == 3
