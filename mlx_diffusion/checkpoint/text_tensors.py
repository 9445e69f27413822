"""The text model's tensors, derived from the sizes in config.json, and the check that a checkpoint has them all.

Knows nothing of files or arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mlx_diffusion.checkpoint.config import FULL, ModelConfig
from mlx_diffusion.checkpoint.headers import ITEM_BYTES, StoredTensor, Tensor
from mlx_diffusion.checkpoint.tensor_names import DECODER, VISION
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError

FLOATING = ("BF16", "F16", "F32")
MOST_A_BYTE = 4  # weights of 2 bits, the fewest


def text_tensors(config: ModelConfig) -> list[Tensor]:
    """The text model's tensors by the Hub's names, from the sizes alone."""
    hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    experts, expert_inner = config.num_experts, config.moe_intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        f"{DECODER}embed_tokens.weight": (vocab, hidden),
        f"{DECODER}norm.weight": (hidden,),
    }
    for name in ("self_conditioning.{}", *(f"layers.{i}.mlp.{{}}" for i in range(config.num_hidden_layers))):
        for matrix in ("gate_proj", "up_proj"):
            shapes[f"{DECODER}{name.format(matrix)}.weight"] = (inner, hidden)
        shapes[f"{DECODER}{name.format('down_proj')}.weight"] = (hidden, inner)
    shapes[f"{DECODER}self_conditioning.pre_norm.weight"] = (hidden,)
    for i, layer_type in enumerate(config.layer_types):
        kv_heads, head = config.head_shape(layer_type)
        query = config.num_attention_heads * head
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (query, hidden),
            "self_attn.k_proj.weight": (kv_heads * head, hidden),
            "self_attn.o_proj.weight": (hidden, query),
            "self_attn.q_norm.weight": (head,),
            "self_attn.k_norm.weight": (head,),
            "router.proj.weight": (experts, hidden),
            "router.scale": (hidden,),
            "router.per_expert_scale": (experts,),
            "experts.gate_up_proj": (experts, 2 * expert_inner, hidden),
            "experts.down_proj": (experts, hidden, expert_inner),
            "layer_scalar": (1,),
        }
        if layer_type != FULL:  # in full layers the values are the keys before their norm
            layer["self_attn.v_proj.weight"] = (kv_heads * head, hidden)
        for norm in (
            "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "pre_feedforward_layernorm_2",
            "post_feedforward_layernorm", "post_feedforward_layernorm_1", "post_feedforward_layernorm_2",
        ):  # fmt: skip
            layer[f"{norm}.weight"] = (hidden,)
        shapes |= {f"{DECODER}layers.{i}.{name}": shape for name, shape in layer.items()}
        shapes[f"model.encoder.language_model.layers.{i}.layer_scalar"] = (1,)
    return [Tensor(name, "BF16", shape) for name, shape in shapes.items()]


def check_size(config: ModelConfig, stored: Iterable[StoredTensor], where: str) -> None:
    """Refuse a config whose model has more weights than the files can hold, before anything of that size is made.

    Which tensor differs is found once the model is filled. Raises CheckpointError.
    """
    described = sum(math.prod(tensor.shape) for tensor in text_tensors(config))
    held = sum(entry.tensor.nbytes for entry in stored)
    if described > held * MOST_A_BYTE:
        raise CheckpointError(
            f"{where}: config.json describes a model of {count_of(described, 'weight')}, and the weight files have "
            f"{count_of(held, 'byte')}; one of them is another checkpoint's, so download it again"
        )


def check_complete(tensors: Sequence[Tensor], config: ModelConfig, where: str) -> None:
    """Raise CheckpointError unless these are the text model's tensors, all of them and in their shapes.

    Tensors of the vision tower may be there, too. What was quantised or converted before is refused.
    """
    expected = {tensor.name: tensor.shape for tensor in text_tensors(config)}
    found = {tensor.name: tensor for tensor in tensors}
    if config.quantization is not None:
        raise CheckpointError(f"{where} is quantised already, as its config.json says; convert the original checkpoint")
    if any(name.endswith(".experts.gate_up_proj.weight") for name in found):
        raise CheckpointError(f"{where} is converted already; convert the original checkpoint")
    if any(name.endswith(".scales") for name in found):
        raise CheckpointError(f"{where} is quantised already; convert the original checkpoint, a second loss adds up")
    unknown = [name for name in found if name not in expected and not name.startswith(VISION)]
    missing = [name for name in expected if name not in found]
    for names, problem in (
        (unknown, "no part of DiffusionGemma"),
        (missing, "missing from its weight files; download them and their index again"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{where}: {sorted(names)[0]}{more}: {problem}")
    for tensor in tensors:
        if tensor.shape != expected.get(tensor.name, tensor.shape):
            raise CheckpointError(
                f"{where}: {tensor.name} has shape {list(tensor.shape)}, config.json makes it "
                f"{list(expected[tensor.name])}"
            )
        if tensor.dtype in ITEM_BYTES and tensor.dtype not in FLOATING:  # other names are those of encodings
            raise CheckpointError(f"{where}: {tensor.name} holds {tensor.dtype}, not one of {', '.join(FLOATING)}")
