"""Each block against a few plain lines of NumPy."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import config_dict

from mlx_diffusion.checkpoint.config import FULL, SLIDING, ModelConfig
from mlx_diffusion.network.layers import MLP, Experts, RotaryEmbedding, Router, SelfConditioning, geglu, rms_norm

CONFIG = ModelConfig.from_dict(config_dict(num_experts=6, top_k_experts=2))
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def set_weights(module: Any, **arrays: np.ndarray) -> None:
    for path, array in arrays.items():
        *parents, name = path.split("__")
        target = module
        for parent in parents:
            target = target[parent]
        target[name] = mx.array(array)


def np_rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + CONFIG.rms_norm_eps)


def np_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def assert_close(ours: mx.array, theirs: np.ndarray, bound: float = 2e-5) -> None:
    assert np.abs(np.asarray(ours) - theirs).max() < bound * max(1, np.abs(theirs).max())


def test_rms_norm_by_hand() -> None:
    assert rms_norm(mx.array([[3.0, 4.0, 0.0, 0.0]]), eps=0.0).tolist() == [
        [1.2000000476837158, 1.600000023841858, 0, 0]
    ]


def test_geglu_uses_the_tanh_form() -> None:
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    assert_close(geglu(mx.array(x), mx.array(2 * x)), np_gelu(x) * 2 * x, 1e-6)


@pytest.mark.parametrize(("layer_type", "turning"), [(SLIDING, 8), (FULL, 4)])
@pytest.mark.parametrize("start", [0, 1, 3333])
def test_rope_turns_the_first_frequencies(layer_type: Any, turning: int, start: int) -> None:
    size = CONFIG.head_shape(layer_type)[1]
    x = normal(1, 3, 5, size)
    angles = np.zeros((5, size // 2))
    for pair in range(turning):
        wavelength = np.float32(CONFIG.rope[layer_type].theta ** np.float64(np.float32(2 * pair) / np.float32(size)))
        angles[:, pair] = np.float32(np.arange(start, start + 5, dtype=np.float32) * (np.float32(1) / wavelength))
    a, b = x[..., : size // 2], x[..., size // 2 :]
    expected = np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)
    rope = RotaryEmbedding(CONFIG, layer_type)
    assert_close(rope(mx.array(x), start), expected, 1e-6)
    some = mx.array([4, 1])
    assert mx.array_equal(rope(mx.array(x)[:, :, some], start, some), rope(mx.array(x), start)[:, :, some])


def test_mlp() -> None:
    gate, up, down, x = normal(64, 64), normal(64, 64), normal(64, 64), normal(3, 64)
    mlp = MLP(64, 64)
    set_weights(mlp, gate_proj__weight=gate, up_proj__weight=up, down_proj__weight=down)
    assert_close(mlp(mx.array(x)), (np_gelu(x @ gate.T) * (x @ up.T)) @ down.T)


def np_route(r: np.ndarray, proj: np.ndarray, scale: np.ndarray, per_expert: np.ndarray) -> np.ndarray:
    """Dense weights [T, E], zero for experts that were not chosen."""
    scores = (np_rms(r) * scale * 64**-0.5) @ proj.T
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    weights = np.zeros_like(p)
    for row, out in zip(p, weights, strict=True):
        best = np.argsort(-row)[:2]
        out[best] = row[best] / row[best].sum() * per_expert[best]
    return weights


def test_router_chooses_renormalises_and_scales() -> None:
    proj, scale, per_expert, r = normal(6, 64), normal(64), normal(6), normal(9, 64)
    router = Router(CONFIG)
    set_weights(router, proj__weight=proj, scale=scale, per_expert_scale=per_expert)
    experts, weights = router(mx.array(r))
    dense = np.zeros((9, 6))
    np.put_along_axis(dense, np.asarray(experts).astype(int), np.asarray(weights), axis=-1)
    assert_close(mx.array(dense), np_route(r, proj, scale, per_expert))


def test_experts_are_a_weighted_sum_of_those_chosen() -> None:
    gate_up, down, x = normal(6, 64, 64), normal(6, 64, 32), normal(9, 64)
    module = Experts(CONFIG)
    set_weights(module, gate_up_proj__weight=gate_up, down_proj__weight=down)
    chosen = np.stack([RNG.permutation(6)[:2] for _ in range(9)]).astype(np.uint32)
    weights = normal(9, 2)
    expected = np.zeros((9, 64))
    for token in range(9):
        for expert, weight in zip(chosen[token], weights[token], strict=True):
            gate, up = np.split(gate_up[expert] @ x[token], 2)
            expected[token] += weight * (down[expert] @ (np_gelu(gate) * up))
    assert_close(module(mx.array(x), mx.array(chosen), mx.array(weights)), expected)


def test_self_conditioning_runs_on_a_zero_signal_too() -> None:
    gate, up, down, pre = normal(64, 64), normal(64, 64), normal(64, 64), normal(64)
    module = SelfConditioning(CONFIG)
    set_weights(module, gate_proj__weight=gate, up_proj__weight=up, down_proj__weight=down, pre_norm__weight=pre)
    embedded, soft = normal(4, 64), normal(4, 64)
    s = np_rms(soft) * pre
    expected = np_rms(embedded + (np_gelu(s @ gate.T) * (s @ up.T)) @ down.T)
    assert_close(module(mx.array(embedded), mx.array(soft)), expected)
    assert_close(module(mx.array(embedded), mx.zeros((4, 64))), np_rms(embedded))
