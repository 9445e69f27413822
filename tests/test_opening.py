"""A model that does not fit is refused before it is loaded, with numbers and a recipe."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import write_source
from foreign_layouts import write_layout
from huggingface_hub import HfApi

from mlx_diffusion.checkpoint import folder as checkpoint
from mlx_diffusion.checkpoint.hub_files import hub_weight_bytes
from mlx_diffusion.cli.main import main
from mlx_diffusion.fit import machine, opening
from mlx_diffusion.fit.machine_memory import MachineMemory, memory_here
from mlx_diffusion.measure.answers import workers
from mlx_diffusion.measure.answers.engine import Examinee
from mlx_diffusion.measure.answers.workers import default_workers

DEMO = checkpoint.DEMO_FOLDER


def on(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    for module in (opening, machine):
        monkeypatch.setattr(module, "memory_here", lambda: replace(memory_here(), **facts))


COMMANDS = [
    ["generate", "Copy: fig oak ant"],
    ["chat", "-m", "Copy: fig oak ant"],
    ["bench", "--steps", "1"],
    ["eval", "--suite", "copy", "--count", "1"],
    ["eval", "--recipes", "4bit", "--suite", "copy", "--count", "1"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_does_not_fit_is_refused_before_loading(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, device="gpu", memory_bytes=5_000_000, gpu_bytes=3_000_000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for load in ("mlx_diffusion.opening.load", "mlx_diffusion.cli.bench.opening.load_model"):
        monkeypatch.setattr(load, lambda name: pytest.fail("it was loaded"))
    monkeypatch.setattr(Examinee, "of", lambda folder: pytest.fail("it was loaded"))
    monkeypatch.setattr("sys.stdin", StringIO())
    assert main(command) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if "needs" in line]
    assert "demo needs" in line and "weights" in line and "this machine has" in line


def test_every_worker_of_an_evaluation_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many as the user asks for are refused; by default there are no more than fit."""
    demo = opening.find_model("demo", pytest.fail)
    needed = opening.verdict_on("demo", demo).needed_bytes
    on(monkeypatch, device="cpu", memory_bytes=2 * needed)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert main(["eval", "--suite", "copy", "--count", "3", "--workers", "3"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "in each of 3 workers" in line and line.endswith("--workers 1 would fit")
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(workers, "on_cpu", lambda: True)
    assert default_workers(demo) == 1
    on(monkeypatch, device="cpu", memory_bytes=8 * needed)
    assert default_workers(demo) == 6


def test_what_is_tight_on_a_cpu_is_said_and_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, device="cpu", memory_bytes=9_000_000)
    assert main(["generate", "Copy: fig oak ant"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "fig oak ant\n" and "may have to swap" in printed.err


def test_a_model_too_large_is_told_before_its_download(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    happened = []

    def note(what: str, answer: Any) -> Any:
        happened.append(what)
        return answer

    monkeypatch.setattr(opening, "download_warning", lambda name: note("looked", f"{name} is too large"))
    monkeypatch.setattr(opening, "find_folder", lambda name, revision: note("downloaded", DEMO))
    assert main(["generate", "--model", "owner/name", "Copy: fig oak ant"]) == 0
    assert happened[:2] == ["looked", "downloaded"]
    assert "owner/name is too large" in capsys.readouterr().err


def test_an_encoding_that_the_config_does_not_name_is_said(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", shards=1)
    for bare in (False, True):
        folder = write_layout(source, tmp_path / str(bare), "modelopt", bare=bare)
        told: list[str] = []
        opening.find_model(str(folder), told.append)
        assert len(told) == bare and all(line.endswith("by its tensors it is in NVFP4") for line in told)


def test_too_little_memory_is_said_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    mac = MachineMemory("gpu", 24 << 30, 19_100_000_000)
    monkeypatch.setattr(opening, "memory_here", lambda: mac)
    monkeypatch.setattr(opening, "hub_weight_bytes", lambda model: 28_000_000_000)
    warning = opening.download_warning("owner/name")
    assert warning is not None and "28.00 GB" in warning and "19.10 GB" in warning and "--recipe 4bit" in warning
    monkeypatch.setattr(opening, "hub_weight_bytes", lambda model: None)
    assert opening.download_warning("owner/name") is None


def test_sizes_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [SimpleNamespace(rfilename="a.safetensors", size=7), SimpleNamespace(rfilename="config.json", size=9)]

    def model_info(self: Any, model: str, **options: Any) -> Any:
        if model != "owner/name":
            raise OSError("no network")
        return SimpleNamespace(siblings=files)

    monkeypatch.setattr(HfApi, "model_info", model_info)
    assert hub_weight_bytes("owner/name") == 7
    assert hub_weight_bytes("owner/other") is None
