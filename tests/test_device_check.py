"""A device's check: kernels held against float64, and settings that follow from errors and times, made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import config_dict

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.cli.main import main
from mlx_diffusion.fit.products import Product
from mlx_diffusion.measure.device import check
from mlx_diffusion.measure.device.attention import FUSED, PARTS
from mlx_diffusion.measure.device.buffers import BufferTrial, chain_seconds
from mlx_diffusion.measure.device.check import check_device
from mlx_diffusion.measure.device.experts import SORTED, UNSORTED
from mlx_diffusion.measure.device.products import ProductTrials
from mlx_diffusion.measure.device.text import check_text
from mlx_diffusion.measure.device.trial import WIDTHS, Distance, Extent, KernelTrial, TrialSetup, distance, tried
from mlx_diffusion.measure.device.verdict import verdict
from mlx_diffusion.tuning import Kept, Tuning, read_kept

CONFIG = config_dict(intermediate_size=128)
SMALL = ModelConfig.from_dict(CONFIG, where="here")
RIGHT, WRONG = Distance(1e-3, 1e-3), Distance(float("inf"), float("inf"))


@pytest.fixture(autouse=True)
def one_run_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "EACH", 0.0)
    monkeypatch.setattr(check, "PROBE", (16, 128, 128))


def test_every_kernel_is_as_in_float64() -> None:
    """In float32; the types of a GPU are a CPU's worst."""
    found = check_device(config=SMALL, seconds=20.0)
    parts = {trial.setup.part.split(" ")[0] for trial in found.trials}
    assert parts >= {"experts", "attention,", "projections", "dense", "router", "head"}
    own = [trial for trial in found.trials if trial.setup.dtype == "float32" and trial.setup.kernel != FUSED]
    assert {trial.setup.width for trial in own} == set(WIDTHS)
    tried_ones = [trial for trial in own if trial.distance]
    assert tried_ones and all(trial.distance and trial.distance.error < 1e-5 for trial in tried_ones)
    assert all(" at 0 of " in trial.distance.note for trial in tried_ones if trial.distance and trial.distance.note)
    assert all(bool(trial.problem) != bool(trial.seconds) for trial in found.trials)
    assert found.verdict.tuning.projections is None and found.verdict.undecided
    text = check_text(found)
    assert "Best here:" in text and "Not decided:" in text and max(map(len, text.splitlines())) <= 120
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_trial_says_what_mlx_cannot_do_here() -> None:
    def fail() -> mx.array:
        raise ValueError("no such kernel\nat all")

    made = tried(TrialSetup("head", "k", "float16", 16), fail, lambda array: RIGHT, 1, 0.1)
    assert made.problem == "no such kernel" and made.rate is None
    assert distance(mx.array([1.0, np.nan]), np.ones(2)).error == float("inf")
    assert distance(mx.array([1.0, 2.0]), np.array([1.0, 1.0])) == Distance(0.5**0.5, 1.0)


def test_what_is_cut_keeps_its_multiple() -> None:
    assert Extent(1000).of(64, 1, 8) == 64 and Extent(50).of(64, 1, 8) == 48 and Extent(1).of(64, 1, 8) == 8


def trial(part: str, kernel: str, dtype: str, width: int, seconds: float, found: Distance = RIGHT) -> KernelTrial:
    return KernelTrial(TrialSetup(part, kernel, dtype, width), found, seconds, 1)


def on_a_gpu(**other: float) -> list[KernelTrial]:
    """Trials on which float16 is slower, sorting pays beyond 32 positions, and one of two head sizes has a kernel."""
    trials = []
    for width in WIDTHS:
        for dtype in ("bfloat16", "float16"):
            slow = other.get(dtype, 1.0)
            trials += [
                trial("projections 64 by 64", "affine 8 bits", dtype, width, slow),
                trial("experts", SORTED, dtype, width, slow),
                trial("experts", UNSORTED, dtype, width, slow * (0.5 if width <= 32 else 2)),
                trial("attention, heads of 256", PARTS, dtype, width, slow),
                trial("attention, heads of 256", FUSED, dtype, width, slow / 2),
                trial("attention, heads of 512", PARTS, dtype, width, slow),
                KernelTrial(TrialSetup("attention, heads of 512", FUSED, dtype, width), problem="none"),
            ]
    return trials


def test_settings_follow_from_times() -> None:
    found = verdict(on_a_gpu(float16=1.5), [BufferTrial(None, 1.0), BufferTrial(100, 0.5)], "bfloat16", on_cpu=False)
    assert found.tuning == Tuning(None, 33, (256,))
    assert any("MLX_MAX_OPS_PER_BUFFER=100" in line for line in found.reasons)
    faster = verdict(on_a_gpu(float16=0.5), [], "bfloat16", on_cpu=False)
    assert faster.tuning == Tuning("float16", 33, (256,))
    assert verdict(on_a_gpu(float16=0.5), [], "bfloat16", on_cpu=True).tuning.projections is None


def test_a_type_that_is_wrong_or_lacking_anywhere_is_not_taken() -> None:
    trials = on_a_gpu(float16=0.5)
    assert verdict(trials[:-4], [], "bfloat16", on_cpu=False).tuning.projections is None
    trials[-3] = replace(trials[-3], distance=WRONG)
    assert verdict(trials, [], "bfloat16", on_cpu=False).tuning.projections is None


def test_the_command_keeps_what_is_best(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    shape = Product("dense MLP", 256, 64, 64, None)
    made = ProductTrials(shape, Extent(float("inf")), ["float32", "float16"], 0)
    monkeypatch.setattr(check, "_trials", lambda *_: iter([made]))
    assert main(["doctor", "--check", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["check"]["kept_in"] is None and read_kept() is None
    assert main(["doctor", "--check", "--keep"]) == 0
    assert f"Kept in {tmp_path}" in capsys.readouterr().out
    kept = read_kept()
    assert kept and kept.is_of_this_device and kept == Kept.here(kept.tuning)
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "--keep"])
    assert "goes with --check" in capsys.readouterr().err


def test_a_chain_of_launches_takes_time() -> None:
    assert chain_seconds() > 0
