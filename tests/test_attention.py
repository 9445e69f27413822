"""Attention against an unrolled NumPy twin: grouped heads, values from raw keys, and both passes over one cache."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import config_dict

from mlx_diffusion.checkpoint.config import FULL, SLIDING, ModelConfig
from mlx_diffusion.network import attention as attention_module
from mlx_diffusion.network.attention import Attention, attend_both_ways, attend_causally
from mlx_diffusion.network.cache import LayerCache
from mlx_diffusion.network.flat import Flat
from mlx_diffusion.network.layers import RotaryEmbedding
from mlx_diffusion.network.masks import blocks

CONFIG = ModelConfig.from_dict(config_dict(sliding_window=3))


def random_attention(layer_type: Any) -> Attention:
    rng = np.random.default_rng(1)
    attention = Attention(CONFIG, layer_type, RotaryEmbedding(CONFIG, layer_type))
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
        if name in attention:
            shape = attention[name].weight.shape
            attention[name].weight = mx.array(rng.normal(size=shape).astype(np.float32) * 0.3)
    return attention


def twin(attention: Attention, layer_type: Any, x: np.ndarray, sees: Any) -> np.ndarray:
    """All positions at once; sees(query, key) says which pairs count. x [T, D]."""
    kv_heads, size = CONFIG.head_shape(layer_type)
    heads = CONFIG.num_attention_heads

    def norm(y: np.ndarray, weight: Any = 1.0) -> np.ndarray:
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + CONFIG.rms_norm_eps) * np.asarray(weight)

    def turned(y: np.ndarray) -> np.ndarray:
        rope = RotaryEmbedding(CONFIG, layer_type)
        return np.asarray(rope(mx.array(y.swapaxes(0, 1)[None].astype(np.float32)), 0))[0].swapaxes(0, 1)

    def project(name: str, count: int) -> np.ndarray:
        return (x @ np.asarray(attention[name].weight).T).reshape(len(x), count, size)

    queries = turned(norm(project("q_proj", heads), attention.q_norm.weight))
    raw_keys = project("k_proj", kv_heads)
    keys = turned(norm(raw_keys, attention.k_norm.weight))
    values = norm(project("v_proj", kv_heads) if layer_type == SLIDING else raw_keys)
    out = np.zeros((len(x), heads, size))
    for query in range(len(x)):
        for head in range(heads):
            kv = head // (heads // kv_heads)
            seen = [key for key in range(len(x)) if sees(query, key)]
            scores = np.array([queries[query, head] @ keys[key, kv] for key in seen])
            weights = np.exp(scores - scores.max())
            out[query, head] = (weights / weights.sum()) @ values[seen, kv]
    return out.reshape(len(x), -1) @ np.asarray(attention.o_proj.weight).T


@pytest.mark.parametrize("few_shapes", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3, 64])
@pytest.mark.parametrize("layer_type", [SLIDING, FULL])
def test_both_passes(layer_type: Any, width: int, few_shapes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the keys are cut into parts, and whether what is not seen is cut off or masked."""
    attention = random_attention(layer_type)
    window = CONFIG.sliding_window if layer_type == SLIDING else None
    prefix, canvas = 5, 4
    x = np.random.default_rng(2).normal(size=(prefix + canvas, 64)).astype(np.float32)

    def encoder_sees(query: int, key: int) -> bool:
        return key <= query and (window is None or key > query - window)

    def decoder_sees(query: int, key: int) -> bool:
        return key >= prefix or window is None or key >= prefix - (window - 1)

    cache = LayerCache(window, spare=2)
    (row,) = attention.project(mx.array(x[:prefix])).rows(Flat.of([prefix]))
    encoded = attention.output(
        attend_causally(attention.turned(row, 0), blocks(0, prefix, window, width), cache, mx.depends)
    )
    expected = twin(attention, layer_type, x[:prefix], encoder_sees)
    assert np.abs(np.asarray(encoded) - expected).max() < 1e-5

    monkeypatch.setattr(attention_module, "widest", lambda rows, scores: width)
    (row,) = attention.project(mx.array(x[prefix:])).rows(Flat.of([canvas]))
    row = attention.turned(row, mx.array(prefix))
    behind, seen = cache.seen_by_canvas(few_shapes)
    attended = attend_both_ways(row.queries, (row.keys, row.values), None, behind, seen)
    expected = twin(attention, layer_type, x, decoder_sees)[prefix:]
    assert np.abs(np.asarray(attention.output(attended)) - expected).max() < 1e-5


def test_full_layers_have_no_v_proj() -> None:
    assert "v_proj" not in random_attention(FULL) and "v_proj" in random_attention(SLIDING)
