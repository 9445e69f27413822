"""What --verify finds: nothing in a right conversion, by name what was mixed up, and a model that is another."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, write_source

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER, Checkpoint
from mlx_diffusion.convert import RECIPES, convert
from mlx_diffusion.convert import verify as module
from mlx_diffusion.convert.verify import BOUNDS, Verification, verify
from mlx_diffusion.errors import CheckpointError, ConversionError
from mlx_diffusion.loading import load_model
from mlx_diffusion.measure import logit_errors as logits_module
from mlx_diffusion.measure.logit_errors import CONVERGED, PROMPTS, RANDOM, LogitError

EXPERTS = "model.decoder.layers.0.experts.gate_up_proj"
NORM = "model.decoder.layers.0.input_layernorm.weight"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far the canvases converge plays no part here."""
    monkeypatch.setattr(logits_module, "STEPS", 1)


@pytest.fixture
def shallow(tmp_path: Path) -> Path:
    """A source of one layer, where what is compared is no matter of their number."""
    return write_source(tmp_path / "shallow", layer_types=["full_attention"], num_hidden_layers=1)


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
    assert [(error.canvases, error.prompt) for error in found.logits] == [
        (kind, prompt) for kind in (RANDOM, CONVERGED) for prompt in (None, *PROMPTS)
    ]
    assert "experts" in found.table()
    assert {*found.as_dict()} == {"ok", "problems", "tensors", "logits", "converged", "bound", "magnitudes"}


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
def test_experts_and_rows_out_of_place_are_named(recipe: str, axis: int, shallow: Path, target: Path) -> None:
    convert(shallow, target, recipe)
    rewritten(target, f"{EXPERTS}.weight", lambda array: mx.take(array, mx.arange(array.shape[axis])[::-1], axis))
    found = verify(shallow, target)
    assert [error.name for error in found.tensors if not error.ok] == [EXPERTS]
    assert not found.ok
    assert EXPERTS in found.problems[0]
    assert EXPERTS in found.table()
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_norm_that_is_off_by_a_bit_is_named(shallow: Path, target: Path) -> None:
    convert(shallow, target, "4bit")
    rewritten(target, NORM, lambda array: array * 1.01)
    assert [error.name for error in verify(shallow, target).tensors if not error.ok] == [NORM]


def test_a_model_that_is_another_fails_by_its_logits_alone(source: Path, target: Path) -> None:
    """Right tensor by tensor, and a config.json that turns every position by other angles.

    So small a random model hardly looks at other positions: its likeliest tokens stay, its divergence is within 8 bits.
    """
    convert(source, target, "8bit")
    config = json.loads((target / "config.json").read_text())
    for rope in config["text_config"]["rope_parameters"].values():
        rope["rope_theta"] = 3.0
    (target / "config.json").write_text(json.dumps(config))
    found = verify(source, target)
    assert all(error.ok for error in found.tensors)
    assert not found.ok
    assert all("canvases: " in problem for problem in found.problems)


def compared(divergence: float, margins: Sequence[float], positions: int = 24, error: float = 0.02) -> list[str]:
    """The problems of positions of equal divergence and error, of which some have another most likely token."""
    margin = np.array([*margins, *[0.0] * (positions - len(margins))])
    rows = np.stack([np.full(positions, divergence), margin == 0, np.full(positions, error), margin])
    return problems(rows)


def problems(rows: np.ndarray) -> list[str]:
    return Verification([], [logits_module._logit_error(RANDOM, None, rows)], [], BOUNDS["8 bits"]).problems


def test_few_positions_and_near_ties_are_no_alarm() -> None:
    assert not compared(0.001, [0.05, 0.1])  # 22 of 24 are equal, where 95 % are to be
    assert not compared(0.001, [1.0, 1.0])  # no near ties, and no more than chance makes of 95 %
    assert "12 of 24" in "".join(compared(0.001, [1.0] * 12))
    assert "40 of 200" in "".join(compared(0.001, [1.0] * 40, positions=200))
    assert compared(0.03, []) and compared(0.001, [], error=0.3)
    rows = np.stack([np.zeros(24), np.ones(24), np.zeros(24), np.zeros(24)])
    rows[0, 0] = 0.6  # a token that went to other experts: 0.025 nats on average
    assert not problems(rows)


def test_the_coarsest_format_sets_the_bound(source: Path, target: Path) -> None:
    convert(source, target, "8bit", rules=["*.layers.1.experts.down_proj=mxfp4", "*.self_attn.*=bf16"])
    assert verify(source, target).bound == BOUNDS["mxfp4"]


def test_a_bf16_conversion_of_float32_passes(tmp_path: Path, target: Path) -> None:
    """The source's logits have more bits then, so these differ a little."""
    source = write_source(tmp_path / "float32")
    for file in source.glob("*.safetensors"):
        tensors = mx.load(str(file))
        assert isinstance(tensors, dict)
        rng = np.random.default_rng(0)
        finer = {n: a.astype(mx.float32) * (1 + mx.array(rng.uniform(0, 2**-9, a.shape))) for n, a in tensors.items()}
        mx.eval(finer)
        mx.save_safetensors(str(file), {n: a.astype(mx.float32) for n, a in finer.items()}, metadata={"format": "pt"})
    convert(source, target, "bf16")
    found = verify(source, target)
    assert found.ok, found.problems
    assert any(error.divergence > 0 for error in found.logits)


def test_what_is_past_the_bounds_is_said() -> None:
    logits = [
        LogitError(RANDOM, None, 100, 0.61, 0.6, 3.0, 0.4, 50, 0.6),
        LogitError(RANDOM, "a", 100, 9.0, 9.0, 9.0, 0.0, 100, 1.0),
    ]
    found = Verification([], logits, [(3, True)], BOUNDS["4 bits"])
    assert found.problems == [
        "random canvases: divergence 0.6100 nats, at most 0.5 is right",
        "random canvases: 40.0% equal tokens, 50 of 100 lost and no near ties; at least 70% equal are right",
        "random canvases: logits are off by 60.0% of their spread, at most 50% is right",
    ]
    nothing = logits_module._logit_error(CONVERGED, None, np.full((4, 3), np.nan))
    broken = Verification([], [nothing], [], BOUNDS["4 bits"])
    assert len(broken.problems) == 2
    assert broken.as_dict()["logits"][0]["divergence"] is None
    assert replace(found, logits=[]).ok


def test_divergence_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against NumPy in float64, over several chunks of positions, from the source to the converted."""
    model = load_model(Checkpoint.open(FIXTURES / "hub"))
    rng = np.random.default_rng(0)
    states = [mx.array(rng.standard_normal((10, model.config.hidden_size)).astype(np.float32)) for _ in range(2)]
    monkeypatch.setattr(logits_module, "LOGIT_ROWS", 4)
    divergence, equal, error, margin = logits_module._compared(model, model, *states)
    logits = [np.array(model.logits(state)).astype(np.float64) for state in states]
    p, q = (np.exp(array) / np.exp(array).sum(-1, keepdims=True) for array in logits)
    np.testing.assert_allclose(divergence, (p * np.log(p / q)).sum(-1), rtol=1e-3, atol=1e-5)
    assert equal.tolist() == (logits[0].argmax(-1) == logits[1].argmax(-1)).tolist()
    spread, likeliest = logits[0].std(-1), logits[1].argmax(-1)
    np.testing.assert_allclose(error, (logits[1] - logits[0]).std(-1) / spread, rtol=1e-3)
    chosen = np.take_along_axis(logits[0], likeliest[:, None], -1)[:, 0]
    np.testing.assert_allclose(margin, (logits[0].max(-1) - chosen) / spread, rtol=1e-3, atol=1e-6)


def test_folders_that_do_not_belong_together_are_refused(shallow: Path, target: Path, tmp_path: Path) -> None:
    convert(shallow, target, "4bit")
    with pytest.raises(ConversionError, match=r"target is no conversion of .*demo: model\.decoder\..* is missing"):
        verify(DEMO_FOLDER, target)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        verify(shallow, tmp_path)


def test_a_tensor_that_the_source_lacks_is_refused(shallow: Path, target: Path) -> None:
    convert(shallow, target, "4bit")
    file = next(target.glob("*.safetensors"))
    tensors = mx.load(str(file))
    assert isinstance(tensors, dict)
    mx.eval(tensors)
    stale = {"model.decoder.layers.9.layer_scalar": mx.ones((1,), mx.bfloat16)}
    mx.save_safetensors(str(file), tensors | stale, metadata={"format": "mlx"})
    with pytest.raises(ConversionError, match=r"nothing like model\.decoder\.layers\.9\.layer_scalar"):
        verify(shallow, target)


def test_every_format_has_bounds() -> None:
    specs = [spec for recipe in RECIPES.values() for _, spec in recipe.rules]
    assert {module._format(spec) for spec in specs} <= set(BOUNDS)
    in_order = [BOUNDS[name] for name in ("bf16", "8 bits", "6 bits", "5 bits", "4 bits", "3 bits", "2 bits")]
    assert in_order == sorted(in_order, key=lambda bound: (bound.divergence, -bound.equal))
