"""The renaming table, both expert layouts, every quantised mode against its dequantised twin, and each refusal."""

import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import config_dict, hub_tensors
from mlx.utils import tree_flatten

from mlx_diffusion.checkpoint import packing, weights
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.checkpoint.tensor_names import VISION
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage

CONFIG = ModelConfig.from_dict(config_dict())
MATRICES = re.compile(r"model\.decoder\..*(proj|embed_tokens)(\.weight)?")

AFFINE = [QuantSpec(group, bits, "affine") for group, bits in ((32, 2), (32, 3), (64, 4), (64, 5), (32, 6), (64, 8))]
MODES = [*AFFINE, QuantSpec(32, 4, "mxfp4"), QuantSpec(32, 8, "mxfp8"), QuantSpec(16, 4, "nvfp4")]


def filled(tensors: dict[str, mx.array], quantization: dict[str, Any] | None = None, **text: Any) -> DiffusionGemma:
    raw = config_dict(**text) | ({"quantization": quantization} if quantization else {})
    model = DiffusionGemma(ModelConfig.from_dict(raw))
    weights.fill(model, dict(tensors), model.config.quantization, where="/models/toy")
    return model


def parameters_of(model: DiffusionGemma) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def dequantised(spec: QuantSpec, weight: mx.array, scales: mx.array, biases: mx.array | None = None) -> mx.array:
    return packing.unpacked(weight, scales, biases, spec, None).astype(mx.float32)


def quantised(
    tensors: dict[str, mx.array], spec_of: Callable[[str], QuantSpec | None]
) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    """The tensors in mlx-vlm's layout, and the Hub's with every matrix replaced by what the bits still say."""
    packed, twin = {}, dict(tensors)
    for name, tensor in tensors.items():
        path = name.removesuffix(".weight")
        spec = spec_of(path) if MATRICES.fullmatch(name) else None
        if spec is None or tensor.shape[-1] % spec.group_size:
            packed[name if tensor.ndim < 3 else f"{name}.weight"] = tensor
            continue
        parts = packing.packed(tensor, spec)
        packed |= {f"{path}.{part}": a for part, a in zip(("weight", "scales", "biases"), parts, strict=False)}
        twin[name] = dequantised(spec, *parts)
    return packed, twin


def table(spec: QuantSpec) -> dict[str, Any]:
    return {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode}


def assert_same(a: DiffusionGemma, b: DiffusionGemma, bound: float = 1e-4) -> None:
    rng = np.random.default_rng(5)
    prompt, canvas, later = (mx.array(rng.integers(0, 64, size)) for size in (9, 8, 8))
    results = []
    for model in (a, b):
        cache = model.make_cache()
        hidden = model.encode([Passage(prompt, cache)])
        logits = model.denoise(canvas, None, cache)
        results.append([hidden, logits, model.denoise(later, model.soft_embedding(logits / 0.7), cache)])
    for left, right in zip(*results, strict=True):
        assert np.abs(np.asarray(left) - np.asarray(right)).max() < bound


def test_every_tensor_fills_its_parameter_and_is_read_once() -> None:
    tensors = hub_tensors(CONFIG)
    left = dict(tensors)
    model = DiffusionGemma(CONFIG)
    weights.fill(model, left, None, where="test")
    assert list(left) == ["model.encoder.embed_vision.embedding_projection.weight"]  # taken out one by one
    parameters = parameters_of(model)
    paths = [str(weights.parameter_path(name)) for name in tensors if not name.startswith(VISION)]
    assert sorted(paths) == sorted(parameters)  # onto, and no two names to one path
    for name, tensor in tensors.items():
        path = weights.parameter_path(name)
        if path is not None:
            assert mx.array_equal(parameters[path], tensor)


def test_the_table_by_hand() -> None:
    path = weights.parameter_path
    assert path("model.decoder.embed_tokens.weight") == "embed_tokens.weight"
    assert path("model.decoder.layers.12.layer_scalar") == "layers.12.decoder_scalar"
    assert path("model.encoder.language_model.layers.12.layer_scalar") == "layers.12.encoder_scalar"
    assert path("model.decoder.layers.3.experts.down_proj") == "layers.3.experts.down_proj.weight"
    assert path("model.decoder.layers.3.experts.down_proj.scales") == "layers.3.experts.down_proj.scales"
    assert path("model.decoder.layers.3.experts.up_proj.biases") == "layers.3.experts.gate_up_proj.biases"
    assert path("model.decoder.layers.3.mlp.up_proj.weight") == "layers.3.mlp.up_proj.weight"
    assert path("lm_head.weight") is None


def test_scalars_of_the_two_passes_are_not_mixed_up() -> None:
    model = filled(hub_tensors(CONFIG))
    tensors = hub_tensors(CONFIG)
    assert model.layers[1].decoder_scalar.item() == tensors["model.decoder.layers.1.layer_scalar"].item()
    assert (
        model.layers[1].encoder_scalar.item()
        == tensors["model.encoder.language_model.layers.1.layer_scalar"].item()
        != model.layers[1].decoder_scalar.item()
    )


@pytest.mark.parametrize("spec", MODES, ids=str)
def test_quantised_is_its_dequantised_twin(spec: QuantSpec) -> None:
    packed, twin = quantised(hub_tensors(CONFIG), lambda path: spec)
    assert_same(filled(packed, table(spec)), filled(twin))


def test_an_odd_number_of_groups_is_its_dequantised_twin() -> None:
    """Of rows, experts and looked up tokens, too: MLX packs NVFP4 by two groups, and refuses one more."""
    spec = QuantSpec(16, 4, "nvfp4")
    odd: dict[str, Any] = {"hidden_size": 48, "vocab_size": 65, "num_experts": 3, "moe_intermediate_size": 16}
    packed, twin = quantised(hub_tensors(ModelConfig.from_dict(config_dict(**odd))), lambda path: spec)
    assert_same(filled(packed, table(spec), **odd), filled(twin, **odd))


def test_paths_may_be_quantised_each_in_their_own_way() -> None:
    """The recipe of mlx-vlm's newer conversions: experts in the named mode, 8 bits elsewhere, one path not at all."""
    low, high = QuantSpec(32, 4, "mxfp4"), QuantSpec(64, 8, "affine")

    def spec_of(path: str) -> QuantSpec | None:
        if path.endswith("layers.1.mlp.up_proj"):
            return None
        return low if "experts" in path or "self_conditioning" in path else high

    tensors = hub_tensors(CONFIG)
    packed, twin = quantised(tensors, spec_of)
    quantization: dict[str, Any] = table(low) | {
        name.removesuffix(".weight"): {"group_size": 64, "bits": 8}
        for name in tensors
        if MATRICES.fullmatch(name) and spec_of(name.removesuffix(".weight")) == high
    }
    quantization["model.decoder.layers.1.mlp.up_proj"] = False
    assert_same(filled(packed, quantization), filled(twin))


def apart(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """The older layout: gate and up of the experts as two modules."""
    older = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*experts\.)gate_up_proj(\.\w+)?", name)
        if not match:
            older[name] = tensor
            continue
        for half, part in zip(("gate", "up"), mx.split(tensor, 2, axis=1), strict=True):
            older[f"{match[1]}{half}_proj{match[2] or '.weight'}"] = part
    return older


@pytest.mark.parametrize("spec", [None, QuantSpec(64, 4, "affine"), QuantSpec(32, 4, "mxfp4")], ids=str)
def test_older_folders_have_gate_and_up_apart(spec: QuantSpec | None) -> None:
    tensors = hub_tensors(CONFIG)
    if spec is None:
        assert_same(filled(apart(tensors)), filled(tensors), bound=1e-6)
    else:
        packed, _ = quantised(tensors, lambda path: spec)
        assert_same(filled(apart(packed), table(spec)), filled(packed, table(spec)), bound=1e-6)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_on_the_cpu_all_is_float32(dtype: mx.Dtype) -> None:
    model = filled({name: tensor.astype(dtype) for name, tensor in hub_tensors(CONFIG).items()})
    assert {array.dtype for array in parameters_of(model).values()} == {mx.float32}
    assert model.dtype == mx.float32


def test_activations_follow_the_weights_and_logits_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; types are known before anything is computed, and bf16 experts run on no CPU."""
    monkeypatch.setattr(weights, "activation_dtype", lambda: mx.bfloat16)
    packed, _ = quantised(hub_tensors(CONFIG), lambda path: QuantSpec(32, 4, "affine"))
    for model in (filled(hub_tensors(CONFIG)), filled(packed, table(QuantSpec(32, 4, "affine")))):
        cache = model.make_cache()
        assert model.encode([Passage(mx.zeros(9, dtype=mx.int32), cache)]).dtype == mx.bfloat16
        assert {array.dtype for array in cache.arrays()} == {mx.bfloat16}
        logits = model.denoise(mx.zeros(8, dtype=mx.int32), None, cache)
        assert logits.dtype == mx.float32 and model.soft_embedding(logits).dtype == mx.bfloat16
        again = model.denoise(mx.zeros(8, dtype=mx.int32), model.soft_embedding(logits), cache)
        assert again.dtype == mx.float32


def damaged(change: Callable[[dict[str, mx.array]], object]) -> dict[str, mx.array]:
    tensors = hub_tensors(CONFIG)
    change(tensors)
    return tensors


LAYER = "model.decoder.layers.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{LAYER}.layer_scalar"), rf"1 tensor \({LAYER}.layer_scalar\) is missing"),
        (lambda t: t.pop(f"{LAYER}.experts.down_proj"), rf"1 tensor \({LAYER}.experts.down_proj\) is missing"),
        (
            lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name],
            r"2\d tensors \(.*, .*, .*, …\) are missing",
        ),
        (lambda t: t.update({"lm_head.weight": mx.ones(3)}), r"1 tensor \(lm_head.weight\) is no part"),
        (lambda t: t.update({f"{LAYER}.extra": mx.ones(3)}), rf"1 tensor \({LAYER}.extra\) has no place"),
        (
            lambda t: t.update({"model.decoder.layers.2.self_attn.v_proj.weight": mx.ones((32, 64))}),
            r"layers.2.self_attn.v_proj.weight\) has no place",
        ),
        (lambda t: t.update({"model.decoder.layers.3.layer_scalar": mx.ones(1)}), "layers.3.layer_scalar.* no place"),
        (lambda t: t.update({f"{LAYER}.router.scale": mx.ones(63)}), r"router.scale has shape \[63\].*needs \[64\]"),
        (
            lambda t: t.update({f"{LAYER}.experts.down_proj": mx.ones((4, 32, 64))}),
            r"experts.down_proj has shape \[4, 32, 64\], the model needs \[4, 64, 32\]",
        ),
        (
            lambda t: t.update({f"{LAYER}.router.scale": mx.ones(64, dtype=mx.int32)}),
            "router.scale holds int32, the model needs floating-point numbers",
        ),
        (
            lambda t: t.update({f"{LAYER}.experts.gate_up_proj.weight": t[f"{LAYER}.experts.gate_up_proj"]}),
            "gate_up_proj.weight stand for the same parameter",
        ),
        (
            lambda t: t.update({f"{LAYER}.experts.gate_proj.weight": mx.ones((4, 32, 64))}),
            "gate_proj.weight and .*gate_up_proj stand for the same parameter",
        ),
        (
            lambda t: (
                t.pop(f"{LAYER}.experts.gate_up_proj"),
                t.update({f"{LAYER}.experts.gate_proj.weight": mx.ones((4, 32, 64))}),
            ),
            r"1 tensor \(.*experts.up_proj.weight\) is missing",
        ),
        (lambda t: t.update({f"{LAYER}.router.proj.scales": mx.ones((4, 1))}), "config.json has no quantization"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, mx.array]], object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        filled(damaged(change))
    assert str(caught.value).startswith("/models/toy: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [f"{LAYER}.experts.gate_up_proj", f"{LAYER}.layer_scalar"])
def test_nan_and_infinity_are_named(name: str, value: float) -> None:
    tensors = hub_tensors(CONFIG)
    flat = np.asarray(tensors[name]).copy()
    flat.reshape(-1)[-1] = value
    tensors[name] = mx.array(flat)
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN or infinity"):
        filled(tensors)


def test_nan_in_scales_is_named() -> None:
    spec = QuantSpec(64, 4, "affine")
    packed, _ = quantised(hub_tensors(CONFIG), lambda path: spec)
    name = "model.decoder.embed_tokens.scales"
    packed[name] = mx.full(packed[name].shape, float("nan"))
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN"):
        filled(packed, table(spec))


@pytest.mark.parametrize(
    ("stored", "said", "message"),
    [
        (QuantSpec(64, 4, "affine"), QuantSpec(64, 8, "affine"), r"has shape \[.*the model needs"),
        (QuantSpec(32, 4, "affine"), QuantSpec(64, 4, "affine"), r"its rows have 32 entries"),
        (QuantSpec(32, 4, "affine"), QuantSpec(32, 4, "mxfp4"), r"biases.* has|have no place"),
        (QuantSpec(32, 4, "mxfp4"), QuantSpec(32, 4, "affine"), r"biases.*are missing"),
    ],
)
def test_files_and_config_must_agree_on_quantisation(stored: QuantSpec, said: QuantSpec, message: str) -> None:
    packed, _ = quantised(hub_tensors(CONFIG), lambda path: stored)
    with pytest.raises(CheckpointError, match=message):
        filled(packed, table(said))


def test_a_path_that_is_said_to_be_left_alone_has_no_scales() -> None:
    spec = QuantSpec(64, 4, "affine")
    packed, _ = quantised(hub_tensors(CONFIG), lambda path: spec)
    with pytest.raises(CheckpointError, match=r"router.proj.scales is there, but config.json says"):
        filled(packed, table(spec) | {"model.decoder.layers.0.router.proj": False})


def test_packed_bits_without_their_scales() -> None:
    spec = QuantSpec(64, 4, "affine")
    packed, _ = quantised(hub_tensors(CONFIG), lambda path: spec)
    del packed["model.decoder.layers.0.router.proj.scales"]
    with pytest.raises(CheckpointError, match=r"router\.proj\.(biases|weight)"):
        filled(packed, table(spec))
