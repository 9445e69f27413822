"""The blocks that positions pass through one by one: norms, RoPE, dense MLP, router, experts, self-conditioning.

Knows nothing of attention, caches, or which pass (encode or denoise) is running.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_diffusion.checkpoint.config import LayerType, ModelConfig
from mlx_diffusion.network.switch import SwitchLinear
from mlx_diffusion.tuning import tuning

SHRINK = 2.0**-6  # of what float16 products of GeGLUs give


def rms_norm(x: mx.array, eps: float) -> mx.array:
    """RMS norm over the last axis, without a weight."""
    return mx.fast.rms_norm(x, None, eps)


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """gelu(gate) * up, with the tanh form of GELU; in float16 a share of it, see `unshrunk`."""
    return nn.gelu_approx(gate) * (up * SHRINK if up.dtype == mx.float16 else up)


def unshrunk(product: mx.array, dtype: mx.Dtype) -> mx.array:
    """The product of a GeGLU's last matrix, in the type of the residual stream.

    float16 ends at 65,504, which experts of the bundled checkpoint exceed; a power of two moves no digit.
    """
    return product.astype(dtype) / SHRINK if product.dtype == mx.float16 else product.astype(dtype)


class RotaryEmbedding:
    """Turns the first `rotated` share of the frequencies of a head; the other pairs stand still.

    Wavelengths are rounded as Transformers rounds them (θ ** exponent in float32, then its reciprocal), so that angles
    agree to the bit at any position: one ulp in a wavelength is 1e-4 in an angle at position 2,000.
    """

    def __init__(self, config: ModelConfig, layer_type: LayerType) -> None:
        rope = config.rope[layer_type]
        self.head_dim = config.head_shape(layer_type)[1]
        turning = int(rope.rotated * self.head_dim // 2)
        exponents = np.arange(0, 2 * turning, 2, dtype=np.float32) / np.float32(self.head_dim)
        wavelengths = np.full(self.head_dim // 2, np.inf, np.float32)
        wavelengths[:turning] = np.float64(rope.theta) ** exponents.astype(np.float64)
        self.wavelengths = mx.array(wavelengths)

    def turn(
        self, queries: mx.array, keys: mx.array, first: int | mx.array, positions: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """A row's queries and keys, [1, H or K, L, S], as they stand at `first`, `first` + 1, …

        Or at `first` + positions, int32 [L].
        """
        return self(queries, first, positions), self(keys, first, positions)

    def __call__(self, x: mx.array, first: int | mx.array, positions: mx.array | None = None) -> mx.array:
        """One array of them, [1, H, L, S]."""
        if positions is None:
            return self._turned(x, first)
        each = self._turned(x[0].swapaxes(0, 1)[:, :, None], first + positions)  # [L, H, 1, S]: a row a position
        return each[:, :, 0].swapaxes(0, 1)[None]

    def _turned(self, x: mx.array, offset: int | mx.array) -> mx.array:
        return mx.fast.rope(
            x, self.head_dim, traditional=False, base=None, scale=1.0, offset=offset, freqs=self.wavelengths
        )


class MLP(nn.Module):
    """The dense GeGLU feed-forward; its result is to be `unshrunk`."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(geglu(self.gate_proj(x), self.up_proj(x)))


class Router(nn.Module):
    """Chooses A of E experts for every token. Reads the residual stream itself, never its normed form."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.scale = mx.ones((config.hidden_size,))
        self.per_expert_scale = mx.ones((config.num_experts,))
        self._top_k = config.top_k_experts
        self._root = config.hidden_size**-0.5
        self._eps = config.rms_norm_eps

    def __call__(self, r: mx.array) -> tuple[mx.array, mx.array]:
        """r [T, D] -> (experts int [T, A], weights float32 [T, A]).

        The product is done in float32: in fewer bits, near ties go to other experts on other kernels.
        """
        scores = self.proj((rms_norm(r, self._eps) * self.scale * self._root).astype(mx.float32))  # [T, E]
        probabilities = mx.softmax(scores.astype(mx.float32), axis=-1)
        experts = mx.argpartition(-probabilities, kth=self._top_k - 1, axis=-1)[:, : self._top_k]
        weights = mx.take_along_axis(probabilities, experts, axis=-1)
        weights = weights / weights.sum(axis=-1, keepdims=True)
        return experts, (weights * self.per_expert_scale[experts]).astype(mx.float32)


class Experts(nn.Module):
    """E GeGLU feed-forwards with gate and up fused into one matrix [E, 2F, D], gate rows first.

    Their result is to be `unshrunk`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner, count = config.hidden_size, config.moe_intermediate_size, config.num_experts
        self.gate_up_proj = SwitchLinear(hidden, 2 * inner, count)
        self.down_proj = SwitchLinear(inner, hidden, count)

    def __call__(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """x [T, D], experts [T, A], weights float32 [T, A] -> [T, D], in the type of x; the sum is done in float32.

        Rows are sorted by expert, so each matrix is read once, where there are enough of them on this device.
        """
        top_k = experts.shape[-1]
        if experts.shape[0] >= tuning().sort_from:
            order = mx.argsort(experts.flatten())  # [T * A]
            rows, chosen = mx.expand_dims(x[order // top_k], -2), experts.flatten()[order]
            y = self._feed_forward(rows, chosen, in_order=True).squeeze(-2)[mx.argsort(order)]
        else:
            rows = mx.repeat(mx.expand_dims(x, -2), top_k, axis=0)
            y = self._feed_forward(rows, experts.flatten(), in_order=False).squeeze(-2)
        y = y.reshape(*experts.shape, -1).astype(mx.float32)  # [T, A, D]
        return (y * weights[..., None]).sum(axis=-2).astype(x.dtype)

    def _feed_forward(self, rows: mx.array, chosen: mx.array, in_order: bool) -> mx.array:
        """rows [N, 1, D] by the experts that are chosen for them, int [N], ascending where `in_order` -> [N, 1, D]."""
        gate, up = mx.split(self.gate_up_proj(rows, chosen, sorted_indices=in_order), 2, axis=-1)
        return self.down_proj(geglu(gate, up), chosen, sorted_indices=in_order)


class SelfConditioning(nn.Module):
    """Mixes the soft signal of the previous denoising step into the canvas embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.pre_norm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        self._eps = config.rms_norm_eps

    def __call__(self, embedded: mx.array, soft: mx.array) -> mx.array:
        """embedded, soft [N, D] -> [N, D] in the type of `embedded`."""
        signal = self.pre_norm(soft)
        signal = self.down_proj(geglu(self.gate_proj(signal), self.up_proj(signal)))
        return rms_norm(embedded + unshrunk(signal, embedded.dtype), self._eps)
