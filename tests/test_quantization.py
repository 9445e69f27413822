"""MLX's table of settings, per path, and what cannot be read of it."""

import pytest

from mlx_diffusion.checkpoint.formats import Quantization, QuantSpec, read_quantization
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
        ({"group_size": 64, "bits": 4, "a.b": {"bits": 9}}, "quantization.a.b.group_size is missing"),
        ({"quant_method": "gptq", "bits": 4}, "was not written by MLX"),
        ("4bit", "was not written by MLX"),
    ],
)
def test_odd_quantization_is_refused(table: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_quantization({"quantization": table})
