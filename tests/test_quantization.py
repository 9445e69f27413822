"""MLX's table of settings, per path, and what cannot be read of it."""

from typing import Any

import pytest

from mlx_diffusion.checkpoint.formats import Quantization, QuantSpec, claimed_encoding, read_quantization
from mlx_diffusion.errors import CheckpointError


def test_quantization_is_read_per_path() -> None:
    table = {
        "group_size": 32, "bits": 4, "mode": "mxfp4",
        "model.decoder.embed_tokens": {"group_size": 64, "bits": 8},
        "model.decoder.layers.0.router.proj": False,
    }  # fmt: skip
    quantization = read_quantization({"quantization": table})
    assert isinstance(quantization, Quantization)
    assert quantization.of("model.decoder.layers.0.experts.down_proj") == QuantSpec(32, 4, "mxfp4")
    assert quantization.of("model.decoder.embed_tokens") == QuantSpec(64, 8, "affine")  # no mode: affine, as in MLX
    assert quantization.of("model.decoder.layers.0.router.proj") is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bits": 4}, "quantization.group_size is missing"),
        ({"group_size": 64}, "quantization.bits is missing"),
        ({"group_size": 64, "bits": 7}, "affine with group_size 64 and bits 7 is not supported"),
        ({"group_size": 48, "bits": 4}, "affine with group_size 48"),
        ({"group_size": 32, "bits": 4, "mode": "int4"}, "unknown mode 'int4'"),
        ({"group_size": 32, "bits": 4, "mode": "nvfp4"}, r"nvfp4 has group_size and bits \(16, 4\)"),
        ({"group_size": 64, "bits": 4, "a.b": {"bits": 9}}, "affine with group_size 64 and bits 9"),
        ({"group_size": 64, "bits": 4, "a.b": {"group_size": 32}}, "quantization.a.b.bits is missing"),
        ({"quant_method": "gptq", "bits": 4}, "was not written by MLX, it is of gptq;"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "it is of modelopt W4A8_AWQ;"),
        ({"quant_method": "compressed-tensors", "config_groups": {"0": {"format": "pack-quantized"}}}, "pack-quant"),
        ("4bit", "was not written by MLX"),
    ],
)
def test_odd_quantization_is_refused(table: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_quantization({"quantization": table})


@pytest.mark.parametrize(
    "raw",
    [
        {"quantization": None, "quantization_config": {"group_size": 32, "bits": 4}},
        {"quantization_config": {"group_size": 32, "bits": 4, "quant_method": "mlx"}},
        {"quantization": {"group_size": 32, "bits": 4, "quant_method": "mlx"}, "quantization_config": None},
    ],
)
def test_other_spellings_of_mlx_formats_are_read(raw: dict[str, Any]) -> None:
    assert read_quantization(raw) == Quantization(QuantSpec(32, 4, "affine"))


@pytest.mark.parametrize(
    ("table", "encoding"),
    [
        ({"quant_method": "fp8", "fmt": "e4m3"}, "FP8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"0": {"format": "nvfp4-pack-quantized"}}}, "NVFP4"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "FP8"),
    ],
)
def test_encodings_of_other_tools_are_for_the_tensors_to_show(table: dict[str, Any], encoding: str) -> None:
    raw = {"quantization_config": table}
    assert read_quantization(raw) is None
    assert claimed_encoding(raw) == encoding


def test_a_matrix_with_bits_alone_has_the_groups_of_mlx() -> None:
    """As `nn.quantize` hands such an entry to `to_quantized`, whose groups are of 64."""
    table = {"group_size": 32, "bits": 4, "a": {"bits": 8}, "b": {"mode": "mxfp8"}}
    found = read_quantization({"quantization": table})
    assert found is not None
    assert (found.of("a"), found.of("b")) == (QuantSpec(64, 8, "affine"), QuantSpec(32, 8, "mxfp8"))
