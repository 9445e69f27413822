"""What --verify finds: nothing in a right conversion, and by name what was mixed up."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES

from mlx_diffusion.checkpoint import DEMO_FOLDER, Checkpoint
from mlx_diffusion.convert import RECIPES, convert
from mlx_diffusion.convert.layerwise import Draft, hidden_states, load_ends
from mlx_diffusion.convert.verify import BOUNDS, verify
from mlx_diffusion.errors import CheckpointError, ConversionError
from mlx_diffusion.loading import load_model

EXPERTS = "model.decoder.layers.1.experts.gate_up_proj"
NORM = "model.decoder.layers.0.input_layernorm.weight"


@pytest.mark.parametrize("length", [5, 32, 70])
def test_layer_by_layer_is_the_model(length: int) -> None:
    """Behind prompts shorter and longer than the window, with and without a soft signal."""
    checkpoint = Checkpoint.open(FIXTURES / "hub")
    prompt = tuple(np.random.default_rng(length).integers(10, 96, length).tolist())
    canvas = mx.arange(10, 26)
    model, ends = load_model(checkpoint), load_ends(checkpoint)
    cache = model.make_cache([0])
    model.encode(mx.array([prompt]), cache)
    first = model.denoise(canvas[None], None, cache)
    soft = model.soft_embedding(first)
    second = model.denoise(canvas[None], soft, cache)
    layers: list[int] = []
    states = hidden_states(checkpoint, ends, [Draft(prompt, canvas), Draft(prompt, canvas, soft)], layers.append)
    for state, logits in zip(states, (first, second), strict=True):
        assert np.abs(np.array(ends.logits(state) - logits[0])).max() < 1e-4
    assert layers == list(range(checkpoint.config.num_hidden_layers))


@pytest.mark.parametrize("recipe", ["bf16", "8bit", "4bit", "2bit", "mxfp4", "nvfp4"])
def test_a_right_conversion_passes(recipe: str, source: Path, target: Path) -> None:
    convert(source, target, recipe)
    shares: list[float] = []
    found = verify(source, target, report=lambda share, label: shares.append(share))
    assert not [error for error in found.tensors if not error.ok]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert len(found.tensors) == len(Checkpoint.open(source).tensors())
    if recipe == "bf16":
        assert found.ok
        assert {(error.divergence, error.equal) for error in found.logits} == {(0.0, 1.0)}
    assert "experts" in found.table()
    assert {*found.as_dict()} == {"ok", "problems", "tensors", "logits"}


def test_the_bundled_checkpoint_stays_within_the_bounds(target: Path) -> None:
    convert("demo", target, "3bit")
    found = verify(DEMO_FOLDER, target)
    assert found.ok
    assert all(error.divergence > 0 for error in found.logits)


def rewritten(target: Path, name: str, change: Callable[[mx.array], mx.array]) -> None:
    """Change one tensor of a finished conversion."""
    for file in target.glob("*.safetensors"):
        tensors = mx.load(str(file))
        assert isinstance(tensors, dict)
        if name in tensors:
            mx.eval(tensors)
            tensors[name] = change(tensors[name])
            mx.save_safetensors(str(file), tensors, metadata={"format": "mlx"})


@pytest.mark.parametrize("recipe", ["bf16", "4bit", "mxfp8"])
@pytest.mark.parametrize("axis", [0, 1])
def test_experts_and_rows_out_of_place_are_named(recipe: str, axis: int, source: Path, target: Path) -> None:
    convert(source, target, recipe)
    rewritten(target, f"{EXPERTS}.weight", lambda array: mx.take(array, mx.arange(array.shape[axis])[::-1], axis))
    found = verify(source, target)
    assert [error.name for error in found.tensors if not error.ok] == [EXPERTS]
    assert not found.ok
    assert EXPERTS in found.problems[0]
    assert EXPERTS in found.table()


def test_a_norm_that_is_off_by_a_bit_is_named(source: Path, target: Path) -> None:
    convert(source, target, "4bit")
    rewritten(target, NORM, lambda array: array * 1.01)
    assert [error.name for error in verify(source, target).tensors if not error.ok] == [NORM]


def test_logits_past_the_bounds_fail(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(source, target, "2bit")
    monkeypatch.setitem(BOUNDS, 2, (0.0, 1.0))
    found = verify(source, target)
    assert not found.ok
    assert any("divergence" in problem and "at most 0.0" in problem for problem in found.problems)


def test_folders_that_do_not_belong_together_are_refused(source: Path, target: Path, tmp_path: Path) -> None:
    convert(source, target, "4bit")
    with pytest.raises(ConversionError, match=r"target is no conversion of .*demo: model\.decoder\..* is missing"):
        verify(DEMO_FOLDER, target)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        verify(source, tmp_path)


def test_every_number_of_bits_has_bounds() -> None:
    specs = {recipe.spec(EXPERTS) for recipe in RECIPES.values()}
    assert {spec.bits if spec else 16 for spec in specs} <= set(BOUNDS)
    in_order = [BOUNDS[bits] for bits in sorted(BOUNDS, reverse=True)]
    assert in_order == sorted(in_order, key=lambda bound: (bound[0], -bound[1]))
