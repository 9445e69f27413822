"""The largest values at the matrices of a model: by hand, and of experts that a conversion's check must point at."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.convert import convert
from mlx_diffusion.convert.verify import verify
from mlx_diffusion.measure import logit_errors as logits_module
from mlx_diffusion.measure.magnitudes import FLOAT16_MAX, Magnitude, Magnitudes, largest
from mlx_diffusion.network.layers import MLP


def test_what_goes_in_and_comes_out_by_hand() -> None:
    mlp = MLP(2, 2)
    mlp.update({name: {"weight": 3 * mx.eye(2)} for name in ("gate_proj", "up_proj", "down_proj")})
    before, seen = dict(mlp), Magnitudes()
    with seen.watching(mlp):
        mlp(mx.array([[1.0, -20.0]]))
        mlp(mx.array([[10.0, 2.0]]))
    assert dict(mlp) == before and isinstance(mlp.down_proj, nn.Linear)
    found = {one.path: one for one in seen.all()}
    assert (found["gate_proj"].taken, found["gate_proj"].given) == (20.0, 60.0)
    assert (found["down_proj"].taken, found["down_proj"].given) == pytest.approx((900.0, 2700.0))
    assert seen.all() == [Magnitude(one.path, one.taken, one.given) for one in found.values()]


def test_float16_holds_a_share_of_a_geglu() -> None:
    plain, last = (
        Magnitude(f"layers.{n}.mlp.{p}", 1.0, 2 * FLOAT16_MAX) for n, p in ((3, "up_proj"), (4, "down_proj"))
    )
    assert plain.share_of_float16 == 2 and last.share_of_float16 == 2 / 64
    assert (plain.projection, plain.layer) == ("mlp.up_proj", "3")
    higher = Magnitude("layers.7.mlp.up_proj", 3 * FLOAT16_MAX, 0.0)
    assert largest([plain, higher, last]) == [higher, last]


def test_a_verification_names_what_leaves_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits_module, "STEPS", 1)
    convert("demo", tmp_path / "made", "bf16")
    found = verify(DEMO_FOLDER, tmp_path / "made")
    assert "All of them are within float16" in found.table()
    told = json.loads(json.dumps(found.as_dict()))["magnitudes"]
    assert {one["path"] for one in told} >= {"self_conditioning.up_proj", "layers.0.self_attn.q_proj"}
    (experts,) = [one for one in largest(found.magnitudes) if one.projection == "experts.down_proj"]
    assert experts.given > FLOAT16_MAX  # of this checkpoint, and why float16 holds a share of it

    monkeypatch.setattr("mlx_diffusion.measure.magnitudes.SHRINK", 1.0)
    assert f"Products of {experts.path} leave float16" in found.table()
