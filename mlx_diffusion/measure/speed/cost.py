"""The least work of a denoising step and of encoding a prompt: floating-point operations and bytes, part by part.

Everything is counted from the configuration and the formats of the matrices; nothing is run. Operations are those of
matrix products (a multiply-add counts as two), attention scores and the sampler; norms, RoPE and activations are left
out, since they are below one per cent. Bytes are those that any implementation has to read: every weight once, and the
prefix's keys and values once. Of the experts it counts as many as a router without preferences is expected to choose.
Knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_diffusion.checkpoint.config import FULL, SLIDING, LayerType, ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.network.masks import first_seen

Formats = Callable[[str], QuantSpec | None]  # the path of a matrix in the model to its format, None for floating point

ATTENTION, PROJECTIONS, DENSE, ROUTER, EXPERTS = "attention scores", "projections", "dense MLP", "router", "experts"
CONDITIONING, HEAD, SOFT, SAMPLER = "self-conditioning", "head", "soft embedding", "sampler"
PARTS = (ATTENTION, PROJECTIONS, DENSE, ROUTER, EXPERTS, CONDITIONING, HEAD, SOFT, SAMPLER)

# Per logit: softcap 3, temperature 1, running maximum 1, Gumbel sum and maximum 2, exponential and sum 3, entropy 2.
SAMPLER_OPERATIONS = 12
BYTE_BITS = 8
FIXED_SCALE_BYTES = 1  # of a group in the mx and nv modes


@dataclass(frozen=True)
class Product:
    """A matrix product of a pass, [rows, inner] by [inner, outer], done `count` times with different matrices.

    `matrices` is 1, or the number of experts that the rows are expected to be spread over.
    """

    part: str
    rows: int
    inner: int
    outer: int
    spec: QuantSpec | None
    matrices: float = 1.0
    count: int = 1
    reads_weights: bool = True  # false where another product has already read the same rows of the matrix

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.outer * self.count

    def nbytes(self, item_bytes: int) -> float:
        if not self.reads_weights:
            return 0
        return self.count * self.matrices * matrix_bytes(self.inner, self.outer, self.spec, item_bytes)


@dataclass(frozen=True)
class PassCost:
    """The work of one pass over `positions` positions."""

    positions: int
    products: tuple[Product, ...]
    attention_flops: int
    sampler_flops: int
    cache_bytes: int  # of the keys and values that are read
    item_bytes: int  # of an activation, and of an entry of a matrix that is not quantised

    def flops(self) -> dict[str, int]:
        """Operations of each part that has any, in the order of PARTS."""
        return _by_part(
            [(product.part, product.flops) for product in self.products]
            + [(ATTENTION, self.attention_flops), (SAMPLER, self.sampler_flops)]
        )

    def nbytes(self) -> dict[str, int]:
        """Bytes of each part that reads any, in the order of PARTS."""
        return _by_part(
            [(product.part, round(product.nbytes(self.item_bytes))) for product in self.products]
            + [(ATTENTION, self.cache_bytes)]
        )

    @property
    def total_flops(self) -> int:
        return sum(self.flops().values())

    @property
    def total_bytes(self) -> int:
        return sum(self.nbytes().values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "positions": self.positions,
            "flops": self.total_flops,
            "bytes": self.total_bytes,
            "flops_by_part": self.flops(),
            "bytes_by_part": self.nbytes(),
        }


def step_cost(config: ModelConfig, formats: Formats, prefix: int, item_bytes: int) -> PassCost:
    """One denoising step of one canvas behind `prefix` encoded tokens, with a soft signal from the step before."""
    length = config.canvas_length
    products = [
        product for index in range(config.num_hidden_layers) for product in _layer(config, formats, index, length)
    ]
    hidden, vocab = config.hidden_size, config.vocab_size
    products += _gated_mlp(CONDITIONING, config, formats, "self_conditioning", length)
    table = formats("embed_tokens")
    products.append(Product(HEAD, length, hidden, vocab, table))
    products.append(Product(SOFT, length, vocab, hidden, table, reads_weights=False))
    attention = sum(
        _attention_flops(config, layer_type, length * (_seen(config, layer_type, prefix) + length))
        for layer_type in config.layer_types
    )
    return PassCost(
        length, tuple(products), attention, SAMPLER_OPERATIONS * length * vocab,
        _cache_bytes(config, prefix, item_bytes), item_bytes,
    )  # fmt: skip


def encode_cost(config: ModelConfig, formats: Formats, tokens: int, prefix: int, item_bytes: int) -> PassCost:
    """Encoding `tokens` tokens at once behind `prefix` others. Of the last layer only keys and values are needed."""
    products: list[Product] = []
    attention = 0
    last = config.num_hidden_layers - 1
    for index, layer_type in enumerate(config.layer_types):
        if index == last:
            products += _projections(config, formats, index, tokens, ("k_proj", "v_proj"))
        else:
            products += _layer(config, formats, index, tokens)
            window = config.sliding_window if layer_type == SLIDING else None
            attention += _attention_flops(config, layer_type, _causal_pairs(prefix, tokens, window))
    return PassCost(tokens, tuple(products), attention, 0, _cache_bytes(config, prefix, item_bytes), item_bytes)


def formats_of(model: nn.Module) -> Formats:
    """The formats of a model's matrices as they are in memory."""
    specs = {
        path: QuantSpec(module.group_size, module.bits, module.mode)
        for path, module in model.named_modules()
        if "scales" in module
    }
    return specs.get


def matrix_bytes(inner: int, outer: int, spec: QuantSpec | None, item_bytes: int) -> int:
    """Bytes in memory of a matrix of inner times outer entries, with its scales and biases."""
    if spec is None:
        return inner * outer * item_bytes
    groups = inner * outer // spec.group_size
    scales = 2 * item_bytes if spec.mode == "affine" else FIXED_SCALE_BYTES
    return inner * outer * spec.bits // BYTE_BITS + groups * scales


def experts_touched(experts: int, chosen: int, tokens: int) -> float:
    """The expected number of experts that `tokens` tokens need, if each takes `chosen` of them at random."""
    return experts * (1 - (1 - chosen / experts) ** tokens)


def parameter_bytes(model: nn.Module) -> int:
    """The bytes of a model's parameters in memory."""
    return sum(array.nbytes for array in dict(tree_flatten(model.parameters())).values())


def _layer(config: ModelConfig, formats: Formats, index: int, rows: int) -> list[Product]:
    path, hidden, inner = f"layers.{index}", config.hidden_size, config.moe_intermediate_size
    products = _projections(config, formats, index, rows, ("q_proj", "k_proj", "v_proj", "o_proj"))
    products += _gated_mlp(DENSE, config, formats, f"{path}.mlp", rows)
    products.append(Product(ROUTER, rows, hidden, config.num_experts, formats(f"{path}.router.proj")))
    touched = experts_touched(config.num_experts, config.top_k_experts, rows)
    for name, shape in (("gate_up_proj", (hidden, 2 * inner)), ("down_proj", (inner, hidden))):
        spec = formats(f"{path}.experts.{name}")
        products.append(Product(EXPERTS, rows * config.top_k_experts, *shape, spec, matrices=touched))
    return products


def _gated_mlp(part: str, config: ModelConfig, formats: Formats, path: str, rows: int) -> list[Product]:
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    return [Product(part, rows, *shape, formats(f"{path}.{name}")) for name, shape in shapes.items()]


def _projections(config: ModelConfig, formats: Formats, index: int, rows: int, names: Iterable[str]) -> list[Product]:
    layer_type = config.layer_types[index]
    kv_heads, head_dim = config.head_shape(layer_type)
    hidden, queries, keys = config.hidden_size, config.num_attention_heads * head_dim, kv_heads * head_dim
    shapes = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
    }
    if layer_type == FULL:  # takes its values from the keys
        del shapes["v_proj"]
    return [
        Product(PROJECTIONS, rows, *shapes[name], formats(f"layers.{index}.self_attn.{name}"))
        for name in names
        if name in shapes
    ]


def _seen(config: ModelConfig, layer_type: LayerType, prefix: int) -> int:
    """The number of prefix positions that a canvas sees in a layer of this type."""
    return prefix - first_seen(prefix, config.sliding_window if layer_type == SLIDING else None)


def _attention_flops(config: ModelConfig, layer_type: LayerType, pairs: int) -> int:
    """Operations of scores and weighted values for so many pairs of a query and a key, in all heads."""
    return 2 * 2 * config.num_attention_heads * config.head_shape(layer_type)[1] * pairs


def _causal_pairs(prefix: int, tokens: int, window: int | None) -> int:
    """The number of pairs of a query among the new tokens and a key that it sees, its own included."""
    first, last = prefix + 1, prefix + tokens  # keys that the first and the last query see without a window
    if window is None or last <= window:
        return (first + last) * tokens // 2
    short = max(0, window - prefix)  # queries that do not fill the window
    return (first + window) * short // 2 + window * (tokens - short) if short else window * tokens


def _cache_bytes(config: ModelConfig, prefix: int, item_bytes: int) -> int:
    total = 0
    for layer_type in config.layer_types:
        kv_heads, head_dim = config.head_shape(layer_type)
        total += 2 * kv_heads * head_dim * _seen(config, layer_type, prefix) * item_bytes
    return total


def _by_part(amounts: Iterable[tuple[str, int]]) -> dict[str, int]:
    total = dict.fromkeys(PARTS, 0)
    for part, amount in amounts:
        total[part] += amount
    return {part: amount for part, amount in total.items() if amount}
