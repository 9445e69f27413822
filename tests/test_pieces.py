"""What a recipe makes of a checkpoint's tensors, by shapes alone; MLX's own quantiser says what is right."""

import math
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec, read_quantization
from mlx_diffusion.checkpoint.headers import Tensor, read_header
from mlx_diffusion.checkpoint.pieces import apply_recipe, bytes_by_part, quantization_table
from mlx_diffusion.checkpoint.recipes import RECIPES, Recipe
from mlx_diffusion.checkpoint.tensor_names import PARTS, part_of
from mlx_diffusion.checkpoint.text_tensors import check_complete, text_tensors
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.json_files import read_json

DEMO = Path(__file__).parent.parent / "mlx_diffusion" / "demo"
CONFIG = ModelConfig.from_dict(read_json(DEMO / "config.json"))
SOURCE = [entry.tensor for entry in read_header(DEMO / "model.safetensors")]
MLX_DTYPES = {mx.bfloat16: "BF16", mx.uint32: "U32", mx.uint8: "U8"}
FORMATS = [
    *(QuantSpec(group, bits, "affine") for group in (32, 64, 128) for bits in (2, 3, 4, 5, 6, 8)),
    QuantSpec(32, 4, "mxfp4"), QuantSpec(32, 8, "mxfp8"), QuantSpec(16, 4, "nvfp4"),
]  # fmt: skip


def test_the_config_alone_gives_the_text_models_tensors() -> None:
    text = {tensor.name: tensor.shape for tensor in SOURCE if part_of(tensor.name) != "vision"}
    assert {tensor.name: tensor.shape for tensor in text_tensors(CONFIG)} == text


@pytest.mark.parametrize("spec", FORMATS, ids=str)
def test_types_and_shapes_are_those_that_mlx_writes(spec: QuantSpec) -> None:
    name, shape = "model.decoder.layers.0.experts.gate_up_proj", (2, 6, 384)
    (piece,) = apply_recipe([Tensor(name, "BF16", shape)], Recipe("", (("*", spec),)))
    made = mx.quantize(mx.ones(shape, mx.bfloat16), group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    assert [(tensor.dtype, tensor.shape) for tensor in piece.written] == [
        (MLX_DTYPES[array.dtype], array.shape) for array in made
    ]
    assert piece.nbytes == sum(array.nbytes for array in made)
    suffixes = ("weight", "scales", "biases")[: len(made)]
    assert [tensor.name for tensor in piece.written] == [f"{name}.{suffix}" for suffix in suffixes]


def test_norms_scalars_and_vision_stay_whatever_the_rules_say() -> None:
    made = apply_recipe(SOURCE, Recipe("", (("*", QuantSpec(32, 4, "affine")),)))
    kept = {part_of(piece.source.name) for piece in made if piece.spec is None}
    assert kept == {"norms and scalars", "vision"}


def test_sizes_are_by_part_and_add_up() -> None:
    made = apply_recipe(SOURCE, RECIPES["bf16"])
    table = bytes_by_part(made)
    assert tuple(table) == PARTS
    assert sum(table.values()) == sum(2 * math.prod(tensor.shape) for tensor in SOURCE)
    assert sum(bytes_by_part(apply_recipe(SOURCE, RECIPES["4bit"])).values()) < 0.5 * sum(table.values())


@pytest.mark.parametrize("name", RECIPES)
def test_the_table_in_config_json_says_how_each_matrix_is_kept(name: str) -> None:
    made = apply_recipe(SOURCE, RECIPES[name])
    table = quantization_table(made)
    if name == "bf16":
        assert table is None
        return
    quantization = read_quantization({"quantization": table})
    assert quantization is not None
    assert [quantization.of(piece.module) for piece in made if piece.spec] == [
        piece.spec for piece in made if piece.spec
    ]


@pytest.mark.parametrize(("width", "how"), [(704, "4,64"), (96, "4,32"), (48, "bf16")])
def test_groups_that_do_not_divide_name_the_tensor_and_what_does(width: int, how: str) -> None:
    down = Tensor("model.decoder.layers.0.experts.down_proj", "BF16", (2, 8, width))
    coarse = RECIPES["4bit"].with_rules(["*.down_proj=4,128"])
    with pytest.raises(CheckpointError) as caught:
        apply_recipe([down], coarse)
    message, _, remedy = str(caught.value).rpartition("rules=")
    assert f"layers.0.experts.down_proj has rows of {width} entries, which groups of 128 do not divide" in message
    assert remedy == f"['*.experts.down_proj={how}']"
    apply_recipe([down], coarse.with_rules([remedy.strip("[']")]))


def test_a_rule_of_the_users_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"'\*\.attn\.\*' fits no matrix"):
        apply_recipe(SOURCE, RECIPES["4bit"].with_rules(["*.self_attn.*=6", "*.attn.*=6"]))


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        (SOURCE[1:], f"{SOURCE[0].name}: missing"),
        ([*SOURCE, Tensor("model.decoder.extra", "BF16", (1,))], r"model\.decoder\.extra: no part of"),
        ([*SOURCE, Tensor("model.decoder.layers.0.experts.gate_up_proj.weight", "BF16", (1,))], "converted already"),
        ([*SOURCE, Tensor("model.decoder.embed_tokens.scales", "BF16", (1,))], "quantised already"),
        ([Tensor(SOURCE[0].name, "BF16", (7, 7)), *SOURCE[1:]], r"has shape \[7, 7\], config\.json makes it"),
        ([Tensor(SOURCE[0].name, "I32", SOURCE[0].shape), *SOURCE[1:]], "holds I32, not one of BF16"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused(tensors: list[Tensor], problem: str) -> None:
    check_complete(SOURCE, CONFIG, "here")
    with pytest.raises(CheckpointError, match=f"here: .*{problem}|here is .*{problem}"):
        check_complete(tensors, CONFIG, "here")
