"""What leaves the command: made harmless on a terminal, as it is elsewhere, and streams that cannot take it."""

import ast
import json
import os
import shlex
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES
from house import MODULES
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion.cli import generate
from mlx_diffusion.cli.main import main
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.streams import out, out_json, window_of
from mlx_diffusion.errors import PromptError
from mlx_diffusion.visible_text import LONGEST_NOTICE, notice, visible

QUICK = ["--model", str(FIXTURES / "hub"), "--max-tokens", "4"]
STEERING = "\x1b]52;c;aGk=\x07 \x9b2J \x7f \u202egnp.exe \u2066 \u200f \u061c \u2028 \r \x00 \udc80"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Full(StringIO):
    def write(self, text: str) -> int:
        if text:
            raise OSError(28, "No space left on device")
        return 0


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_only_one_module_writes_to_the_standard_streams() -> None:
    for name, file in MODULES.items():
        if name.startswith("mlx_diffusion.cli.") and name != "mlx_diffusion.cli.streams":
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in ("print", "sys.stdout.write", "sys.stderr.write"), f"{name}: {called}"


@given(st.text())
def test_visible_text_steers_nothing_and_loses_nothing(text: str) -> None:
    shown = visible(text)
    assert not set(shown.replace("\r\n", "")) & set(STEERING) - set(" ]52;cJaGk=gnp.exe")
    plain = "".join(character for character in text if character.isprintable())
    assert plain == text or len(shown) >= len(text)
    line = notice(text)
    assert len(line.splitlines()) <= 1 and (visible(text) == text or len(line) >= min(len(text), 100))


def test_what_steers_a_terminal_is_written_out() -> None:
    shown = visible(STEERING)
    assert shown.isprintable() and "\\x1b]52;c;aGk=\\x07 \\u009b2J \\u007f \\u202egnp.exe" in shown
    assert visible("a\tb\r\nc\n") == "a\tb\r\nc\n"
    assert notice("a\tb\r\nc\n") == "a\\tb\\r\\nc\\n"
    long = notice("why " * LONGEST_NOTICE + "do this")
    assert len(long) <= LONGEST_NOTICE and long.endswith("do this")


def test_terminals_get_visible_text_and_files_get_it_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    out("a\x1b[2J\n\tb")
    say("no \x1b[2J\nfile")
    assert terminal.getvalue() == "a\\x1b[2J\n\tb\nmlx-diffusion: no \\x1b[2J\\nfile\n"
    monkeypatch.setattr(sys, "stdout", file := StringIO())
    out("a\x1b[2J")
    assert file.getvalue() == "a\x1b[2J\n"


def test_foreign_text_in_an_error_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)

    def fail(args: Any) -> int:
        raise PromptError(f"the template says {STEERING}" + "x" * 10_000)

    monkeypatch.setattr(generate, "run", fail)
    assert main(["generate", "a"]) == 1
    with pytest.raises(SystemExit):
        main(["generate", "a", "--" + STEERING.replace(" ", "") + "y" * 10_000])
    assert "\x1b" not in terminal.getvalue() and len(terminal.getvalue()) < 4000


def test_json_can_be_read_in_every_encoding_and_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    value = {"text": f"漢 \N{GRINNING FACE} {STEERING}"}
    out_json(value)
    assert json.loads(terminal.getvalue()) == value
    for encoding in ("ascii", "latin-1", "utf-8"):
        raw = BytesIO()
        monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
        out_json(value)
        assert json.loads(raw.getvalue()) == value


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_encoding_without_a_character_stops_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding=encoding))
    assert main(["eval", "--show", str(FIXTURES / "eval.json")]) in (0, 1)
    assert main(["bench", "--help"] if False else ["doctor"]) == 0
    out("100 % · 漢")
    assert b"100 %" in raw.getvalue()


@pytest.mark.parametrize("stream", [None, Full()])
def test_standard_output_that_takes_nothing_is_one_line(
    stream: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["generate", *QUICK, "t20"]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and error.startswith("mlx-diffusion: ") and "output" in error


@pytest.mark.parametrize("stream", [None, Full()])
def test_standard_error_that_takes_nothing_stops_nothing(
    stream: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["generate", "--max-tokens", "4", "Copy: fig"]) == 0
    assert capsys.readouterr().out.strip()


def test_a_file_does_not_get_the_number_of_a_closed_stream() -> None:
    command = shlex.join([sys.executable, "-m", "mlx_diffusion.cli", "generate", "Copy: fig oak ant"])
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}  # and none of the usual variables
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} <&- 2>&-"], env=path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "fig oak ant\n"


def test_a_window_of_no_size_is_taken_for_a_usual_one(tmp_path: Path) -> None:
    leader, follower = os.openpty()
    with open(leader, "w"), open(follower, "w") as stream:
        assert window_of(stream) == (80, 24)
    assert window_of(StringIO()) == (80, 24)
