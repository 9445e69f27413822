"""`mlx-diffusion bench`: the command from end to end on tiny models, and what a wrong call is told."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from conftest import FIXTURES, config_dict

from mlx_diffusion.cli.bench import opening
from mlx_diffusion.cli.main import main
from mlx_diffusion.fit.machine import Machine, this_machine
from mlx_diffusion.measure import plotting
from mlx_diffusion.measure.speed import ceilings, peer
from mlx_diffusion.modes import CAUSAL, MODES

HUB = str(FIXTURES / "hub")
QUICK = ["--prompt-tokens", "9", "--output-tokens", "16", "--steps", "2", "--repeat", "1"]
RAW = config_dict(hidden_size=128, intermediate_size=128, moe_intermediate_size=128)


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LEAST_SECONDS", 0.0), ("MOST_SECONDS", 1e-4), ("COPY_BYTES", 1 << 20)):
        monkeypatch.setattr(ceilings, name, value)


def run(*argv: str) -> int:
    """The exit code, whichever way the command ends."""
    try:
        return main(["bench", *argv])
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        return exit.code


def config_folder(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(RAW))
    return folder


def test_json_is_one_object_and_the_plot_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "bench.svg"
    assert run("--model", HUB, *QUICK, "--prompt-tokens", "9,20", "--json", "--plot", str(picture)) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert out.count("\n") == 1
    assert [(case["prompt_tokens"], case["output_tokens"]) for case in report["cases"]] == [(9, 16), (20, 16)]
    assert all(case["reach"]["share_of_ceiling"] > 0 for case in report["cases"])
    assert report["steps"] == 2 and report["device"]["packages"]["mlx"]
    assert picture.read_text().startswith("<?xml") and str(picture) in err
    assert [file.name for file in tmp_path.iterdir()] == ["bench.svg"]


def test_modes_that_write_by_the_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    """Their passes are counted, and each is in the tables beside denoising."""
    modes = [word for mode in (MODES[0], *CAUSAL) for word in ("--mode", mode)]
    assert run("--model", HUB, *QUICK, *modes, "--json") == 0
    _, plain, drafted = json.loads(capsys.readouterr().out)["cases"]
    assert plain["passes"] == [["decode", 1, 15]] and plain["steps"]["median"] == 15
    assert plain["positions_per_token"]["median"] == 15 / 16 and plain["reach"]["share_of_ceiling"] > 0
    assert sum(times for kind, _, times in drafted["passes"] if kind != "beside") == drafted["steps"]["median"]
    quick = [word for word in QUICK if word not in ("--steps", "2")]
    assert run("--model", HUB, *quick, "--mode", "speculative") == 0
    out = capsys.readouterr().out
    assert "ms/pass" in out and "A pass of one position behind 9 tokens" in out and "in the products" not in out


def test_what_may_take_long_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--synthetic", str(config_folder(tmp_path)), "--canvas-length", "4", "--layers", "1", *QUICK) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "reference" in line] == [
        "9 + 16 tokens, reference: warm-up",
        "9 + 16 tokens, reference: run 1 of 1",
    ]
    assert lines[0].startswith("random weights: ") and "measuring the device" in lines[-1]


def test_a_synthetic_model_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(config_folder(tmp_path))
    argv = ["--synthetic", folder, "--recipe", "mxfp4", "--layers", "2", "--canvas-length", "4", *QUICK]
    assert run(*argv) == 0
    out = capsys.readouterr().out
    assert f"{folder} (mxfp4, 2 layers, random weights): 2 layers, canvas 4" in out
    assert "tokens/s" in out and "of ceiling" in out and "soft embedding" in out


def test_a_context_can_be_gone_past_for_the_time_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"]["max_position_embeddings"] = 128
    (folder / "config.json").write_text(json.dumps(raw))
    long = ["--model", str(folder), *QUICK, "--prompt-tokens", "128"]
    assert run(*long) == 2
    assert "--context 144" in capsys.readouterr().err
    assert run(*long, "--context", "144", "--prefill-step-size", "32", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["prompt_tokens"] == 128


@pytest.mark.parametrize(
    ("argv", "code", "named"),
    [
        (["--mode", "quick"], 2, "reference"),
        (["--prompt-tokens", "100,0"], 2, "'0' is no whole number of 1 or more"),
        (["--output-tokens", "many"], 2, "'many'"),
        (["--repeat", "0"], 2, "--repeat"),
        (["--layers", "2"], 2, "add --synthetic"),
        (["--synthetic", "published", "--model", HUB], 2, "leave out one"),
        (["--synthetic", "published", "--recipe", "5bits"], 2, "did you mean '5bit'"),
        (["--synthetic", "no/such-folder"], 1, "no such folder"),
        (["--model", "./no/such/folder"], 1, "no/such/folder"),
        (["--plot", "bench.pdf"], 2, ".png or .svg"),
        (["--plot", "no/such/folder/bench.svg"], 2, "make it first"),
        (["--against", "other"], 2, "mlx-vlm"),
        (["--against", "mlx-vlm", "--mode", "reference", "--mode", "speculative"], 2, "the peer denoises alone"),
        (["--steps", "4", "--mode", "autoregressive"], 2, "--steps is of denoising; add --mode reference"),
        (["--output-tokens", "1", "--mode", "autoregressive"], 2, "comes with its prompt"),
        (["--predict", "--plot", "bench.png"], 2, "--plot is for a measurement"),
        (["--predict", "--model", HUB], 2, "add --record PROMPT"),
        (["--predict", "--mode", "reference"], 2, "add --record PROMPT"),
        (["--predict", "--agreement", "1.5"], 2, "'1.5' is no number from 0 to 1"),
        (["--predict", "--prompt-tokens", "300000"], 2, "context of 262144"),
        (["--agreement", "0.5"], 2, "add --predict"),
        (["--record", "1 2 3"], 2, "add --predict or --synthetic CONFIG"),
        (["--record", "1 2 3", "--synthetic", "published", "--steps", "4"], 2, "--steps is not for recorded passes"),
        (["--record", "1 2 3", "--synthetic", "published", "--mode", "speculative"], 2, "leave out other modes"),
    ],
)
def test_a_wrong_call_is_told_so(argv: list[str], code: int, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == code
    out, err = capsys.readouterr()
    assert named in err and "Traceback" not in err and out == ""


def test_without_the_peer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(peer, "version", missing)
    assert run("--against", "mlx-vlm") == 2
    err = capsys.readouterr().err
    assert "pip install mlx-vlm" in err and err.count("\n") == 1


def test_without_room_on_disk_for_the_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlx_diffusion.measure.check_peer_installed", lambda: None)
    monkeypatch.setattr(opening, "free_bytes", lambda folder: 1000)
    assert run("--synthetic", str(config_folder(tmp_path)), *QUICK, "--against", "mlx-vlm") == 1
    assert "set TMPDIR" in capsys.readouterr().err


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("--plot", "bench.png") == 2
    err = capsys.readouterr().err
    assert "mlx-diffusion[plot]" in err and err.count("\n") == 1
    assert importlib.reload(plotting), "and the module itself does not need it"


def machine(memory: int, device: str = "cpu") -> Machine:
    return replace(this_machine(), memory_bytes=memory, device=device, gpu_bytes=memory * 3 // 4)


def test_the_published_model_is_too_large_for_a_small_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlx_diffusion.fit.machine.this_machine", lambda: machine(8 << 30))
    assert run("--synthetic", "published", "--recipe", "4bit") == 1
    err = capsys.readouterr().err
    assert "GB for it" in err and "weights 19.8" in err and err.count("\n") == 1


def test_the_peer_runs_in_turn_where_it_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlx_vlm")
    folder = str(config_folder(tmp_path))
    argv = ["--synthetic", folder, "--canvas-length", "8", *QUICK, "--against", "mlx-vlm", "--json"]
    assert run(*argv) == 0
    report = json.loads(capsys.readouterr().out)
    (against,) = report["against"]
    assert report["peer"].startswith("mlx-vlm ")
    assert against["ours"]["steps"] == against["theirs"]["steps"] == {"median": 4, "low": 4, "high": 4}
    assert against["theirs"]["primitives"] > 100 and against["ratios"]["step_seconds"]["median"] > 0


def test_a_prediction_runs_nothing_and_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--predict", "--recipe", "4bit-small", "--output-tokens", "256", "--steps", "12") == 0
    out, err = capsys.readouterr()
    assert out.startswith("Predicted, not measured: published (4bit-small), 256 tokens behind 1,000. Denoised in 12")
    assert err == "" and "\nM4 Max (40)" in out and "draft 32" in out
    assert next(line for line in out.splitlines() if line.startswith("M1  ")).rstrip().endswith("too large")


def test_recorded_runs_have_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--predict", "--record", "1 2 3", "--model", HUB, "--output-tokens", "9") == 0
    out = capsys.readouterr().out
    ways, recorded_runs = [line for line in out.splitlines() if line.startswith("chip  ")][:2]
    assert "denoised" in ways and "recorded" not in ways
    assert recorded_runs.split() == ["chip", "recorded", "reference"] and "\nRecorded reference: " in out


def test_a_recorded_answer_is_predicted_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["--synthetic", str(config_folder(tmp_path)), "--output-tokens", "20"]
    assert run("--predict", "--record", "1 2 3", "--model", HUB, *shape, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predicted"] is True and found["recorded"]["reference"]["schedule"]["tokens"] <= 20
    (m4,) = [chip for chip in found["chips"] if chip["chip"] == "M4"]
    ways = m4["ways"]
    assert next(iter(ways)) == "denoised" and [*ways][-1] == "recorded reference" and m4["fastest"] in ways
    for way in ways.values():
        assert sum(way["parts"].values()) == pytest.approx(way["writing_seconds"])
    assert set(found["recorded"]["reference"]["distinct"]) >= {"1", "2", "4"}


def test_recorded_passes_are_taken_again_on_random_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["--synthetic", str(config_folder(tmp_path)), "--recipe", "bf16", "--layers", "2", "--canvas-length", "32"]
    ways = ["--mode", "reference", "--mode", "fast", "--output-tokens", "20", "--repeat", "2", "--no-warm-up"]
    assert run("--record", "1 2 3", "--model", HUB, *shape, *ways, "--json") == 0
    reference, fast = json.loads(capsys.readouterr().out)["replayed"]
    assert reference["positions"] % 32 == 0 and 0 < fast["positions"] <= reference["positions"]
    assert len(reference["seconds"]) == len(fast["seconds"]) == 2
    assert set(reference["predicted_seconds"]) == {"M1 Ultra", "M4 Pro", "M5 Max (40)"}
    assert run("--record", "1 2 3", "--model", HUB, *shape, *ways, "--repeat", "1") == 0
    out = capsys.readouterr().out
    assert "Time and positions, as shares of reference's" in out and "time/positions" in out
