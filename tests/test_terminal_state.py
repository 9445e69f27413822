"""The terminal after the chat: as it was, whatever ended or suspended it."""

import os
import signal
import sys
import termios
from collections.abc import Iterator
from typing import IO, Any

import pytest

from mlx_diffusion.cli import doctor
from mlx_diffusion.cli.chat import terminal_state
from mlx_diffusion.cli.chat.stage import CLEAR, Stage
from mlx_diffusion.cli.chat.terminal_state import no_echo
from mlx_diffusion.cli.main import main


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[IO[str]]:
    """A terminal as standard input."""
    leader, follower = os.openpty()
    with open(leader, "rb"), open(follower) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield stream


def is_quiet(keyboard: IO[str]) -> bool:
    return not termios.tcgetattr(keyboard)[3] & (termios.ECHO | termios.ICANON)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_the_command_ends_it_orderly(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, keyboard: IO[str]
) -> None:
    def run(args: Any) -> int:
        with no_echo():
            assert is_quiet(keyboard)
            signal.raise_signal(number)
        raise AssertionError("went on")

    monkeypatch.setattr(sys, "stdin", keyboard)
    monkeypatch.setattr(doctor, "run", run)
    started_with = signal.signal(number, signal.SIG_DFL)  # under nohup and the like it is ignored, and stays so
    before = signal.getsignal(number), termios.tcgetattr(keyboard)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["doctor"])
        assert ended.value.code == 128 + number
        assert (signal.getsignal(number), termios.tcgetattr(keyboard)) == before
    finally:
        signal.signal(number, started_with)


def test_a_suspended_chat_leaves_the_terminal_to_the_shell(monkeypatch: pytest.MonkeyPatch, keyboard: IO[str]) -> None:
    read, written = os.pipe()
    seen: list[tuple[bool, bytes]] = []
    monkeypatch.setattr(sys, "stdin", keyboard)
    monkeypatch.setattr(terminal_state, "stop_process", lambda: seen.append((is_quiet(keyboard), os.read(read, 999))))
    before = signal.getsignal(signal.SIGTSTP)
    with no_echo(), open(written, "w") as stream:
        stage = Stage(stream)
        stage.draw(["one", "two"])
        signal.raise_signal(signal.SIGTSTP)
        ((quiet, drawn),) = seen
        assert not quiet and drawn.endswith(CLEAR.encode()) and is_quiet(keyboard)
        stage.clear()
        signal.raise_signal(signal.SIGTSTP)
        assert len(seen) == 2
    assert signal.getsignal(signal.SIGTSTP) is before
    os.close(read)
