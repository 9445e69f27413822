"""The chat in a real terminal, as a person sees it: tmux holds the screen, types the keys and changes the window.

Needs tmux: apt install tmux, or brew install tmux, then python -m pytest tests/test_chat_terminal.py.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.terminal,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is missing; apt or brew install tmux"),
]
PATIENCE = 60.0  # seconds for a screen to become what is waited for
STORY = "Story: Katan and the fox"
# What makes the bundled checkpoint write until it is stopped: a token that it never writes, canvases never sure enough.
ENDLESS = ("--eos-token-id", "1023", "--confidence-threshold", "1e-9", "--max-tokens", "100000")


class Screen:
    """One window of a tmux server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = folder / "tmux.conf"
        settings.write_text("set -g exit-empty off\n")  # or a server whose session was killed leaves while one starts
        self.server = ["tmux", "-S", str(folder / "tmux"), "-f", str(settings)]

    def tmux(self, *arguments: str) -> str:
        return subprocess.run([*self.server, *arguments], capture_output=True, text=True, check=True).stdout

    def start(self, *argv: str, columns: int = 80, rows: int = 24, **environment: str) -> None:
        command = [sys.executable, "-m", "mlx_diffusion.cli", "chat", *argv]
        variables = {"XDG_STATE_HOME": str(self.folder), "LC_ALL": "C.UTF-8", "PYTHONPATH": os.pathsep.join(sys.path)}
        given = [f"{name}={value}" for name, value in (variables | environment).items()]
        # The shell stays, and with it the screen, once the chat has ended.
        line = f"{shlex.join(['env', '-u', 'NO_COLOR', *given, *command])}; echo left with $?; cat"
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), line)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def text(self, *options: str) -> str:
        """What is on the screen; "-e" with its escape sequences, "-S-" with what has scrolled away."""
        return "\n".join(line.rstrip() for line in self.tmux("capture-pane", "-p", *options).split("\n"))

    def wait(self, holds: Callable[[str], bool], *options: str) -> str:
        end = time.monotonic() + PATIENCE
        while not holds(text := self.text(*options)):
            assert time.monotonic() < end, f"still waiting; the screen is:\n{text}"
            time.sleep(0.05)
        return text

    def wait_for(self, part: str, *options: str) -> str:
        return self.wait(lambda text: part in text, *options)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    screen = Screen(tmp_path)
    yield screen
    subprocess.run([*screen.server, "kill-server"], capture_output=True, check=False)


def is_prompt(text: str) -> bool:
    """Whether the chat waits for a message."""
    return text.rstrip("\n").endswith("\n>")


def test_a_conversation_as_a_person_has_it(screen: Screen) -> None:
    screen.start()
    text = screen.wait(is_prompt)
    assert "a toy" in text and "is kept" not in text
    screen.type("Reverse: fig oak ant")
    text = screen.wait(lambda text: "tokens/s" in text and is_prompt(text))
    assert "> Reverse: fig oak ant\nant oak fig\n" in text
    assert "reading the prompt" not in text and "settled" not in text
    screen.press("C-d")
    screen.wait_for("left with 0")
    kept = screen.folder / "mlx-diffusion" / "conversations"
    assert len(list(kept.glob("*.json"))) == 1


def test_the_canvas_while_the_window_changes(screen: Screen) -> None:
    screen.start(*ENDLESS)
    screen.wait(is_prompt)
    screen.type(STORY)
    drawn = screen.wait_for("settled", "-e")
    assert "\x1b[2m" in drawn and "\x1b[4" not in drawn.replace("\x1b[49m", ""), "dim, and no background"
    for columns, rows in ((37, 30), (60, 12), (120, 40)):
        screen.resize(columns, rows)
        text = screen.wait(lambda text, width=columns - 1: is_fresh(text, width))  # type: ignore[misc]
        assert text.count("settled") == 1, f"a drawing was left behind:\n{text}"
    screen.press("C-c")
    text = screen.wait(lambda text: "/retry answers anew" in text and is_prompt(text), "-S-")
    assert "settled" not in text, f"a drawing was left behind:\n{text}"

    screen.press("C-c")
    screen.wait_for("left with 0")


def is_fresh(text: str, width: int) -> bool:
    """Whether a canvas is on the screen that was drawn for this width."""
    status = [line for line in text.split("\n") if "settled" in line]
    return bool(status) and len(status[0]) <= width


def test_a_chat_that_was_cut_off_is_offered_again(screen: Screen) -> None:
    screen.start(*ENDLESS)
    screen.wait(is_prompt)
    screen.type(STORY)
    screen.wait_for("settled")
    screen.tmux("kill-session")
    screen.start()
    screen.wait(lambda text: "1 question) is kept" in text and is_prompt(text))
    screen.type("/load")
    text = screen.wait(lambda text: "> " + STORY in text and is_prompt(text))
    assert "1 question, the last:" in text


@pytest.mark.parametrize(("columns", "rows"), [(1, 5), (12, 4)])
def test_any_window(screen: Screen, columns: int, rows: int) -> None:
    screen.start("-m", "Copy: fig oak ant", "--no-save", columns=columns, rows=rows)
    text = screen.wait(lambda text: "leftwith0" in squeezed(text), "-S-")
    assert "figoakant" in squeezed(text) and "settled" not in squeezed(text)


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_a_conversation_in_a_window_of_one_column(screen: Screen) -> None:
    screen.start("--no-save", columns=1, rows=12)
    screen.wait(lambda text: "Ctrl-Dleaves." in squeezed(text), "-S-")
    screen.type("Copy: fig oak ant")
    screen.wait(lambda text: "tokens/s" in squeezed(text).partition("figoakant")[2], "-S-")
    screen.press("C-d")
    screen.wait(lambda text: "leftwith0" in squeezed(text), "-S-")


def test_without_colours_open_text_is_dim_or_dots(screen: Screen) -> None:
    screen.start("-m", STORY, *ENDLESS, NO_COLOR="1")
    drawn = screen.wait_for("settled", "-e")
    assert "\x1b[2m" in drawn and "\x1b[38" not in drawn and "\x1b[3" not in drawn.replace("\x1b[39m", "")
    screen.press("C-c")
    assert "settled" not in screen.wait_for("left with 130")


def test_what_is_typed_meanwhile_is_sent_afterwards(screen: Screen) -> None:
    screen.start("--max-tokens", "16")
    screen.wait_for("/help shows")
    screen.type("Copy: fig oak ant")  # before there is a prompt
    screen.wait(lambda text: "tokens/s" in text and is_prompt(text))
    screen.type(STORY)
    screen.type("/set seed 5")
    screen.type("/think on")
    text = screen.wait_for("thinking is on")
    assert "> /set seed 5\nseed                  5\n> /think on\nthinking is on\n" in text


def test_a_suspended_chat_goes_on(screen: Screen) -> None:
    screen.tmux("new-session", "-d", "-x", "80", "-y", "24", "env PS1='shell> ' bash --norc")
    screen.wait_for("shell>")
    command = [sys.executable, "-m", "mlx_diffusion.cli", "chat", "--no-save", *ENDLESS]
    screen.type(f"PYTHONPATH={shlex.quote(os.pathsep.join(sys.path))} {shlex.join(command)}")
    screen.wait(is_prompt)
    screen.type(STORY)
    screen.wait_for("settled")
    screen.press("C-z")
    text = screen.wait_for("Stopped")
    assert "settled" not in text and screen.tmux("display", "-p", "#{cursor_flag}") == "1\n"
    screen.type("fg")
    screen.wait_for("settled")
    screen.press("C-c")
    screen.wait(lambda text: "/retry answers anew" in text and is_prompt(text))
