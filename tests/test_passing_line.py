"""The line of news beside text: on terminals alone, and gone before more text comes."""

import re
import sys
from io import StringIO

import pytest
from conftest import FIXTURES

from mlx_diffusion.cli import passing_line
from mlx_diffusion.cli.main import main
from mlx_diffusion.cli.passing_line import PassingLine

NEWS = re.compile("\x1b7.*?\x1b8", re.DOTALL)
PROMPT = ["--model", str(FIXTURES / "hub"), "--max-tokens", "80", "t20"]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture(autouse=True)
def term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("command", [["generate"], ["chat", "--plain", "-m"]])
def test_a_terminal_is_told_how_far_the_work_is(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [command[0], *PROMPT[:-1], *command[1:], PROMPT[-1]]
    assert main(argv) == 0
    plain = capsys.readouterr().out
    screen = Terminal()
    monkeypatch.setattr(passing_line, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    assert main(argv) == 0
    shown = screen.getvalue()
    assert "reading the prompt" in shown and "step 1 of" in shown
    left = NEWS.sub("", shown).replace("\x1b[K", "")
    assert left.startswith(plain) and left[len(plain) :].startswith("[") and left.count("\n") == plain.count("\n") + 1


@pytest.mark.parametrize(
    ("argv", "terminal", "name"), [([], False, "xterm"), ([], True, "dumb"), (["--json"], True, "xterm")]
)
def test_others_see_nothing_of_it(
    argv: list[str], terminal: bool, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", name)
    if terminal:
        monkeypatch.setattr(sys, "stderr", error := Terminal())
    assert main(["generate", *argv, *PROMPT]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + (error.getvalue() if terminal else err)


def test_news_stay_within_what_is_left_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    line = PassingLine(clock=Clock())
    shown = {"a" * 50: 27, "漢" * 3: 21, "b" * 24: 0, "\t": 69, "\n": 79, "x" * 80: 0, "\n\x1b": 73}
    for text, letters in shown.items():
        line.passed(text, screen)
        screen.truncate(screen.seek(0))
        line.show("n" * 200)
        assert screen.getvalue().count("n") == letters, text
        line.clear()
