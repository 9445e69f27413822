"""How matrices lie in memory is a matter of speed alone."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES

from mlx_diffusion import device
from mlx_diffusion.loading import load


def logits_and_cache() -> list[np.ndarray]:
    model, _ = load(FIXTURES / "hub")
    cache = model.make_cache([0, 3])
    hidden = model.encode(mx.arange(20, 40).reshape(2, 10), cache)
    logits = model.denoise(mx.arange(40, 56).reshape(2, 8), None, cache)
    return [np.array(array) for array in (hidden, logits, *cache.arrays())]


def test_a_model_laid_out_for_a_cpu_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out = logits_and_cache()
    monkeypatch.setattr(device, "transposed", lambda matrix: matrix.swapaxes(-1, -2))
    for module in ("weights", "parts"):
        monkeypatch.setattr(f"mlx_diffusion.{module}.transposed", device.transposed)
    for ours, plain in zip(laid_out, logits_and_cache(), strict=True):
        assert np.abs(ours - plain).max() < 1e-5


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 6, 8), (1, 7)])
def test_a_transposed_matrix_on_either_device(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = mx.random.normal(shape, key=mx.random.key(0))
    for on_cpu in (True, False):
        monkeypatch.setattr(device, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        assert mx.array_equal(device.transposed(matrix), matrix.swapaxes(-1, -2))
