"""`mlx-diffusion serve` at the command line: what it refuses before any model is loaded."""

from __future__ import annotations

import sys

import pytest

from mlx_diffusion.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["serve", "--model", "nowhere", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_missing_packages_are_named_with_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setattr("mlx_diffusion.serving.server.PACKAGES", ("uvicorn",))
    assert "(uvicorn); run: pip install 'mlx-diffusion[serve]'" in refused(capsys)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--host", "0.0.0.0"], "add --api-key KEY, or --open-to-all"),
        (["--host", "0.0.0.0", "--api-key", ""], "the API key is empty"),
        (["--port", "99999"], "port is 99999; it must be 0 to 65535"),
        (["--host", "203.0.113.1", "--api-key", "k"], "cannot listen at 203.0.113.1, port 8080"),
        (["--max-waiting", "0"], "max_waiting is 0; it must be 1 or more"),
        (["--prefix-store", "/dev/null/a"], "no prefixes can be kept in /dev/null/a"),
        (["--prefix-store", "a", "--prefix-bytes", "0"], "--prefix-store needs memory"),
        (["--prefix-bytes", "-1"], "prefix_bytes is -1; it must be 0 or more"),
    ],
)
def test_what_cannot_be_served_is_refused(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_diffusion.serving.server.PACKAGES", ())
    monkeypatch.delenv("MLX_DIFFUSION_API_KEY", raising=False)
    assert said in refused(capsys, *argv)
