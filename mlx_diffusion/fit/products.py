"""The matrix products of a layer: their shapes, formats and bytes, from the configuration alone.

Knows nothing of attention, passes or time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mlx.nn as nn

from mlx_diffusion.checkpoint.config import FULL, ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec

Formats = Callable[[str], QuantSpec | None]  # the path of a matrix in the model to its format, None for floating point

ATTENTION, PROJECTIONS, DENSE, ROUTER, EXPERTS = "attention scores", "projections", "dense MLP", "router", "experts"
CONDITIONING, HEAD, SOFT, SAMPLER = "self-conditioning", "head", "soft embedding", "sampler"
PARTS = (ATTENTION, PROJECTIONS, DENSE, ROUTER, EXPERTS, CONDITIONING, HEAD, SOFT, SAMPLER)

BYTE_BITS = 8
FIXED_SCALE_BYTES = 1  # of a group in the mx and nv modes


@dataclass(frozen=True)
class Product:
    """A matrix product of a pass, [rows, inner] by [inner, outer], done `count` times with different matrices.

    `matrices` is 1, or the number of experts that the rows are expected to be spread over, of `held` in the layer.
    """

    part: str
    rows: int
    inner: int
    outer: int
    spec: QuantSpec | None
    matrices: float = 1.0
    held: int = 1
    count: int = 1
    reads_weights: bool = True  # false where another product has already read the same rows of the matrix

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.outer * self.count

    def nbytes(self, item_bytes: int) -> float:
        if not self.reads_weights:
            return 0
        return self.count * self.matrices * matrix_bytes(self.inner, self.outer, self.spec, item_bytes)


def layer_products(config: ModelConfig, formats: Formats, index: int, rows: int) -> list[Product]:
    """All products of a layer but attention's, for so many positions."""
    path, hidden, inner = f"layers.{index}", config.hidden_size, config.moe_intermediate_size
    products = projections(config, formats, index, rows, ("q_proj", "k_proj", "v_proj", "o_proj"))
    products += gated_mlp(DENSE, config, formats, f"{path}.mlp", rows)
    products.append(Product(ROUTER, rows, hidden, config.num_experts, formats(f"{path}.router.proj")))
    touched = experts_touched(config.num_experts, config.top_k_experts, rows)
    for name, shape in (("gate_up_proj", (hidden, 2 * inner)), ("down_proj", (inner, hidden))):
        spec = formats(f"{path}.experts.{name}")
        products.append(Product(EXPERTS, rows * config.top_k_experts, *shape, spec, touched, config.num_experts))
    return products


def gated_mlp(part: str, config: ModelConfig, formats: Formats, path: str, rows: int) -> list[Product]:
    """The three products of a dense feed-forward: a layer's, or the self-conditioning's."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    return [Product(part, rows, *shape, formats(f"{path}.{name}")) for name, shape in shapes.items()]


def projections(config: ModelConfig, formats: Formats, index: int, rows: int, names: Iterable[str]) -> list[Product]:
    """Those of a layer's attention projections that are named and exist."""
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
    """The expected number of experts that `tokens` tokens need, if each takes `chosen` of them at random.

    Routers have preferences, and neighbouring tokens share them, so that a pass really needs fewer.
    """
    return experts * (1 - (1 - chosen / experts) ** tokens)
