"""`mlx-diffusion convert`: what goes where, and what a wrong call is told."""

import json
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from conftest import FIXTURES, contents

from mlx_diffusion.checkpoint.folder import UNFINISHED
from mlx_diffusion.cli import progress
from mlx_diffusion.cli.convert import progress_text
from mlx_diffusion.cli.main import main
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.convert import Progress, conversion, upload, verify
from mlx_diffusion.display import duration


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def run(*argv: str | Path) -> int:
    """The exit code, whichever way the command ends."""
    try:
        return main(["convert", *map(str, argv)])
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        return exit.code


def test_progress_and_summary_go_to_standard_error(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, target, "--recipe", "8bit") == 0
    out, err = capsys.readouterr()
    assert out == ""
    *lines, last = err.splitlines()
    assert "MB/s" in lines[0] and lines[-1].startswith("100%") and "\r" not in err
    assert last.startswith(f"{target}: ") and "3 weight files, 8bit" in last


def test_json_is_one_object(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, target, "--json", "--set", "*.self_attn.*=6") == 0
    out, _ = capsys.readouterr()
    report = json.loads(out)
    assert out.count("\n") == 1
    assert report["total_bytes"] == sum(report["parts"].values())
    assert (report["source"], report["target"], report["recipe"]) == (str(source), str(target), "4bit")


@pytest.mark.parametrize(
    ("argv", "code", "named"),
    [
        (["SOURCE"], 2, "TARGET is missing"),
        (["SOURCE", "TARGET", "--recipe", "5bits"], 2, "did you mean '5bit'"),
        (["SOURCE", "TARGET", "--set", "*=7"], 2, "the rule '*=7'"),
        (["SOURCE", "TARGET", "--set", "*.attn=4"], 2, "'*.attn' fits no matrix"),
        (["SOURCE", "TARGET", "--verify", "--stream"], 2, "leave out one of them"),
        (["SOURCE", "TARGET", "--rec", "4bit"], 2, "--rec"),
        (["./no/such", "TARGET"], 1, "no such folder"),
        (["SOURCE", "SOURCE/inside"], 1, "lie within each other"),
        ([str(FIXTURES / "hub"), "TARGET"], 1, "which groups of 64 do not divide; give --set '*"),
    ],
)
def test_a_wrong_call_is_told_so(
    argv: list[str], code: int, named: str, source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("SOURCE", str(source)).replace("TARGET", str(target)) for word in argv]
    assert run(*words) == code
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and named in last and last.startswith("mlx-diffusion")
    assert "Traceback" not in err and not target.exists()


def test_interrupted_it_says_how_to_go_on(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_write_weights", interrupted)
        assert run(source, target, "--set", "*.self_attn.*=6") == 130
    assert "the same command goes on" in capsys.readouterr().err
    command = json.loads((target / UNFINISHED).read_text())["command"]
    assert command == f"mlx-diffusion convert {source} {target} --set '*.self_attn.*=6'"
    assert main(["generate", "--model", str(target), "t20"]) == 1
    assert capsys.readouterr().err.strip().endswith(f"to go on, run: {command}")
    assert run(source, target, "--set", "*.self_attn.*=6") == 0
    assert UNFINISHED not in contents(target)


def test_a_dry_run_says_what_the_conversion_writes(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, "--dry-run", "--recipe", "6bit", "--json") == 0
    dry = json.loads(capsys.readouterr().out)
    assert run(source, target, "--recipe", "6bit", "--json") == 0
    real = json.loads(capsys.readouterr().out)
    assert (dry["total_bytes"], dry["parts"]) == (real["total_bytes"], real["parts"])
    assert run(source, "--dry-run") == 0
    assert "4bit-small" in capsys.readouterr().out


@pytest.mark.parametrize("ok", [True, False])
def test_what_verification_finds_decides(
    ok: bool, source: Path, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(original: Path, converted: Path, *, report: Callable[[float, str], None]) -> Any:
        assert (original, converted) == (source, target)
        report(0.5, "half way")
        return SimpleNamespace(ok=ok, table=lambda: "a table", as_dict=lambda: {"ok": ok})

    monkeypatch.setattr(verify, "verify", found)
    assert run(source, target, "--verify") == (0 if ok else 1)
    out, err = capsys.readouterr()
    assert out == "a table\n" and " 50% · half way" in err
    assert ("differs from its source by more than it may" in err) is not ok
    assert run(source, target, "--verify", "--force", "--json") == (0 if ok else 1)
    assert json.loads(capsys.readouterr().out)["verification"] == {"ok": ok}


def test_interrupted_while_it_verifies_the_same_command_goes_on(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(verify, "verify", interrupted)
        assert run(source, target, "--verify") == 130
    assert "the same command goes on" in capsys.readouterr().err
    before = contents(target)
    assert run(source, target) == 1
    assert "is finished, by this very conversion; take --verify" in capsys.readouterr().err
    assert run(source, target, "--verify") == 0
    out, err = capsys.readouterr()
    assert "finished before" in err.splitlines()[0] and "The output is what its recipe makes" in out
    assert contents(target) == before


@pytest.mark.parametrize(
    ("repo_id", "code", "named"), [("name", 2, "reads owner/name"), ("owner/name", 1, "nobody is logged in")]
)
def test_an_upload_that_cannot_be_is_refused_before_the_work(
    repo_id: str, code: int, named: str, source: Path, target: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(upload, "get_token", lambda: None)
    assert run(source, target, "--upload-to", repo_id) == code
    assert named in capsys.readouterr().err and not target.exists()


def test_names_from_a_file_cannot_write_to_the_terminal(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mx.save_safetensors(str(source / "model-00002-of-00003.safetensors"), {"model.decoder.a\n\033[2J": mx.zeros(1)})
    assert run(source, target) == 1
    assert capsys.readouterr().err.endswith("model.decoder.a\\n\\x1b[2J: no part of DiffusionGemma\n")


def moment(done: int, rate: float) -> Progress:
    return Progress(done, 2_000_000_000, 10.0, rate, "model-00001-of-00002.safetensors")


def test_a_line_says_how_much_how_fast_how_long() -> None:
    assert progress_text(moment(500_000_000, 25e6)) == (
        " 25% · 500.00 MB of 2.00 GB · 25 MB/s · 1:00 left · model-00001-of-00002.safetensors"
    )
    assert "? left" in progress_text(moment(0, 0.0))
    assert (duration(59.6), duration(3661)) == ("1:00", "1:01:01")


def test_a_terminal_has_one_line_and_a_log_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for stream, seconds in ((Terminal(), progress.LIVE_SECONDS), (StringIO(), progress.LOG_SECONDS)):
        with ProgressLine(stream) as line:
            for text in ("first", "soon after"):
                line.show(text)
            now += seconds
            line.show("later")
            line.show("last")
        shown = stream.getvalue()
        assert [word for word in ("first", "soon after", "later", "last") if word in shown] == [
            "first",
            "later",
            "last",
        ]
        assert shown.count("\n") == (1 if stream.isatty() else 3)
        assert shown.count("\r") == (3 if stream.isatty() else 0)


def test_nothing_to_show_is_nothing() -> None:
    with ProgressLine(terminal := Terminal()):
        pass
    assert terminal.getvalue() == ""
