"""From the source's tensors and a recipe to the tensors that will be written: names, types, shapes and sizes.

Knows nothing of files or arrays; all is exact arithmetic on shapes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from mlx_diffusion.checkpoint.config import FULL, ModelConfig
from mlx_diffusion.checkpoint.formats import AFFINE_GROUPS, QuantSpec
from mlx_diffusion.checkpoint.headers import Tensor
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.errors import CheckpointError, OptionError

DECODER = "model.decoder."
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")
FLOATING = ("BF16", "F16", "F32")

# A part and the names of its tensors; the first pattern that fits counts.
_PARTS = (
    ("experts", r"model\.decoder\..+\.experts\.(gate_up|down)_proj"),
    ("embeddings", r"model\.decoder\.embed_tokens\.weight"),
    ("attention", r"model\.decoder\..+\.self_attn\.[qkvo]_proj\.weight"),
    ("dense MLP", r"model\.decoder\..+\.mlp\.(gate|up|down)_proj\.weight"),
    ("router", r"model\.decoder\..+\.router\.proj\.weight"),
    ("self-conditioning", r"model\.decoder\.self_conditioning\.(gate|up|down)_proj\.weight"),
    ("norms and scalars", r"model\.(decoder|encoder\.language_model)\..+"),
    ("vision", r".+"),
)
PARTS = tuple(part for part, _ in _PARTS)
_AS_IT_IS = ("norms and scalars", "vision")


@dataclass(frozen=True)
class Piece:
    """One tensor of the source and what becomes of it: itself in bf16, or weight, scales and (affine) biases."""

    source: Tensor
    module: str
    spec: QuantSpec | None
    written: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.written)


@cache
def part_of(name: str) -> str:
    """The part of the model, one of PARTS, that a tensor of the source belongs to."""
    return next(part for part, pattern in _PARTS if re.fullmatch(pattern, name))


def module_of(name: str) -> str:
    """The path of a tensor's module, as config.json's quantization spells it."""
    return name.removesuffix(".weight")


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


def check_complete(tensors: Sequence[Tensor], config: ModelConfig, where: str) -> None:
    """Raise CheckpointError unless these are all tensors of the text model, at its shapes, and the vision tower's.

    So it must be a checkpoint in the Hub's own format that nobody has quantised or converted.
    """
    expected = {tensor.name: tensor.shape for tensor in text_tensors(config)}
    found = {tensor.name: tensor for tensor in tensors}
    if config.quantization is not None:
        raise CheckpointError(f"{where} is quantised already, as its config.json says; convert the original checkpoint")
    if any(name.endswith(".experts.gate_up_proj.weight") for name in found):
        raise CheckpointError(f"{where} is converted already; convert the original checkpoint")
    if any(name.endswith(".scales") for name in found):
        raise CheckpointError(f"{where} is quantised already; convert the original checkpoint, a second loss adds up")
    if len(found) < len(tensors):
        (name, _), *_ = Counter(tensor.name for tensor in tensors).most_common(1)
        raise CheckpointError(f"{where}: {name} is there twice; remove the shard that is not its own")
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
        if tensor.dtype not in FLOATING:
            raise CheckpointError(f"{where}: {tensor.name} holds {tensor.dtype}, not one of {', '.join(FLOATING)}")


def pieces(tensors: Iterable[Tensor], recipe: Recipe) -> list[Piece]:
    """What the recipe makes of each tensor, in the given order.

    Raises CheckpointError where a group size does not divide the rows, OptionError for a user's rule that fits nothing.
    """
    made, unused = [], {pattern for pattern, _ in recipe.own}
    for tensor in tensors:
        module = module_of(tensor.name)
        spec = None
        if part_of(tensor.name) not in _AS_IT_IS:
            spec = recipe.spec(module)
            unused -= {pattern for pattern in unused if fnmatchcase(module, pattern)}
        made.append(Piece(tensor, module, spec, _written(tensor, module, spec)))
    if unused:
        raise OptionError(
            f"--set {sorted(unused)[0]!r} fits no matrix; paths look like {DECODER}layers.0.self_attn.q_proj, "
            "and * stands for any part"
        )
    return made


def _written(tensor: Tensor, module: str, spec: QuantSpec | None) -> tuple[Tensor, ...]:
    if spec is None:
        # mlx-vlm, and so everything that reads its folders, knows experts as modules with a weight.
        name = f"{module}.weight" if part_of(tensor.name) == "experts" else tensor.name
        return (Tensor(name, "BF16", tensor.shape),)
    *rows, width = tensor.shape
    if width % spec.group_size:
        glob = f"*.{'.'.join(module.split('.')[-2:])}"
        fitting = [size for size in AFFINE_GROUPS if width % size == 0]
        how = f"{spec.bits if spec.mode == 'affine' else 8},{fitting[-1]}" if fitting else "bf16"
        raise CheckpointError(
            f"{tensor.name} has rows of {width} entries, which groups of {spec.group_size} do not divide; add --set "
            f"'{glob}={how}'"
        )
    weight = Tensor(f"{module}.weight", "U32", (*rows, width * spec.bits // 32))
    groups = (*rows, width // spec.group_size)
    if spec.mode != "affine":
        return weight, Tensor(f"{module}.scales", "U8", groups)
    return weight, Tensor(f"{module}.scales", "BF16", groups), Tensor(f"{module}.biases", "BF16", groups)


def written(made: Iterable[Piece]) -> list[Tensor]:
    """All tensors that the pieces become, in order."""
    return [tensor for piece in made for tensor in piece.written]


def quantization_table(made: Iterable[Piece]) -> dict[str, object] | None:
    """config.json's `quantization`: the most frequent spec of the experts as the default, other modules by path.

    None where nothing is quantised. Modules without scales in the files need no entry.
    """
    specs = {piece.module: piece.spec for piece in made if piece.spec is not None}
    if not specs:
        return None
    experts = [spec for module, spec in specs.items() if ".experts." in module]
    (default, _), *_ = Counter(experts or specs.values()).most_common(1)
    others = {module: _entry(spec) for module, spec in specs.items() if spec != default}
    return {**_entry(default), **others}


def _entry(spec: QuantSpec) -> dict[str, object]:
    return {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode}


def sizes(made: Iterable[Piece]) -> dict[str, int]:
    """Bytes of the written tensors of each part, in the order of PARTS."""
    total = dict.fromkeys(PARTS, 0)
    for piece in made:
        total[part_of(piece.source.name)] += piece.nbytes
    return total
