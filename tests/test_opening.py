"""A model that does not fit is refused before it is loaded, with numbers and a recipe."""

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest

from mlx_diffusion.checkpoint import folder as checkpoint
from mlx_diffusion.cli import opening, room
from mlx_diffusion.cli.main import main
from mlx_diffusion.fit.machine import this_machine

DEMO = checkpoint.DEMO_FOLDER


def on(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    monkeypatch.setattr(opening, "this_machine", lambda folder: replace(this_machine(), **facts))


@pytest.mark.parametrize("command", [["generate", "Copy: fig oak ant"], ["chat", "-m", "Copy: fig oak ant"]])
def test_what_does_not_fit_is_refused_before_loading(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, device="gpu", memory_bytes=5_000_000, gpu_bytes=3_000_000)
    monkeypatch.setattr(opening, "load", lambda name: pytest.fail("it was loaded"))
    monkeypatch.setattr("sys.stdin", StringIO())
    assert main(command) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if "needs" in line]
    assert "demo needs" in line and "weights" in line and "this machine has" in line


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

    monkeypatch.setattr(room, "warning", lambda name: note("looked", f"{name} is too large"))
    monkeypatch.setattr(checkpoint, "find", lambda name: note("downloaded", DEMO))
    assert main(["generate", "--model", "owner/name", "Copy: fig oak ant"]) == 0
    assert happened[:2] == ["looked", "downloaded"]
    assert "owner/name is too large" in capsys.readouterr().err
