"""The least work of a denoising step and of encoding a prompt: floating-point operations and bytes, part by part.

Everything is counted from the configuration and the formats of the matrices; nothing is run. Operations are those of
matrix products (a multiply-add counts as two), attention scores and the sampler; norms, RoPE and activations are left
out, since they are below one per cent. Bytes are those that any implementation has to read: every weight once, and the
prefix's keys and values once. Of the experts it counts as many as a router without preferences is expected to choose.
Knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_diffusion.checkpoint.config import SLIDING, LayerType, ModelConfig
from mlx_diffusion.fit.products import (
    ATTENTION,
    CONDITIONING,
    HEAD,
    PARTS,
    SAMPLER,
    SOFT,
    Formats,
    Product,
    gated_mlp,
    layer_products,
    projections,
)
from mlx_diffusion.network.masks import first_seen

# Per logit: softcap 3, temperature 1, running maximum 1, Gumbel sum and maximum 2, exponential and sum 3, entropy 2.
SAMPLER_OPERATIONS = 12


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


def step_cost(
    config: ModelConfig,
    formats: Formats,
    prefix: int,
    item_bytes: int,
    positions: int | None = None,
    *,
    conditioned: bool = True,
    products: tuple[Product, ...] | None = None,
) -> PassCost:
    """One denoising step of `positions` positions, by default a whole canvas, behind `prefix` encoded tokens.

    `conditioned`: with a soft signal from the step before, which a canvas's first step has not. `products`: those of a
    step alike behind another prefix, which are the same.
    """
    length = config.canvas_length if positions is None else positions
    attention = sum(
        _attention_flops(config, layer_type, length * (_seen(config, layer_type, prefix) + length))
        for layer_type in config.layer_types
    )
    return PassCost(
        length, products or _step_products(config, formats, length, conditioned), attention,
        SAMPLER_OPERATIONS * length * config.vocab_size, _cache_bytes(config, prefix, item_bytes), item_bytes,
    )  # fmt: skip


def _step_products(config: ModelConfig, formats: Formats, length: int, conditioned: bool) -> tuple[Product, ...]:
    hidden, vocab = config.hidden_size, config.vocab_size
    table = formats("embed_tokens")
    products = [
        *(
            product
            for index in range(config.num_hidden_layers)
            for product in layer_products(config, formats, index, length)
        ),
        *gated_mlp(CONDITIONING, config, formats, "self_conditioning", length),
        Product(HEAD, length, hidden, vocab, table),
    ]
    if conditioned:
        products.append(Product(SOFT, length, vocab, hidden, table, reads_weights=False))
    return tuple(products)


def encode_cost(
    config: ModelConfig,
    formats: Formats,
    tokens: int,
    prefix: int,
    item_bytes: int,
    logits: int = 0,
    products: tuple[Product, ...] | None = None,
) -> PassCost:
    """Encoding `tokens` tokens at once behind `prefix` others, with the next token's logits at `logits` of them.

    Without logits, only keys and values of the last layer are needed. `products`: as in `step_cost`.
    """
    attention = 0
    for layer_type in config.layer_types if logits else config.layer_types[:-1]:
        window = config.sliding_window if layer_type == SLIDING else None
        attention += _attention_flops(config, layer_type, _causal_pairs(prefix, tokens, window))
    return PassCost(
        tokens, products or _encode_products(config, formats, tokens, logits), attention,
        SAMPLER_OPERATIONS * logits * config.vocab_size, _cache_bytes(config, prefix, item_bytes), item_bytes,
    )  # fmt: skip


def _encode_products(config: ModelConfig, formats: Formats, tokens: int, logits: int) -> tuple[Product, ...]:
    products: list[Product] = []
    last = config.num_hidden_layers - 1
    for index in range(config.num_hidden_layers):
        if index == last and not logits:
            products += projections(config, formats, index, tokens, ("k_proj", "v_proj"))
        else:
            products += layer_products(config, formats, index, tokens)
    if logits:
        products.append(Product(HEAD, logits, config.hidden_size, config.vocab_size, formats("embed_tokens")))
    return tuple(products)


def parameter_bytes(model: nn.Module) -> int:
    """The bytes of a model's parameters in memory."""
    return sum(array.nbytes for array in dict(tree_flatten(model.parameters())).values())


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
