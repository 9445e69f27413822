"""The terminal's settings while the chat runs: what is typed is hidden where nothing reads it, and all is put back.

They are put back at every end that a process hears of, and while it is suspended. Knows nothing of what is drawn.
"""

import contextlib
import os
import signal
import sys
import termios
from collections.abc import Iterator
from types import FrameType
from typing import Any

Attributes = list[Any]  # as termios gives them


@contextlib.contextmanager
def no_echo() -> Iterator[None]:
    """Hide what is typed while nothing reads it, and keep it for the next prompt. Ctrl-C works, and Ctrl-Z."""
    try:
        descriptor = sys.stdin.fileno()
        before, quiet = termios.tcgetattr(descriptor), termios.tcgetattr(descriptor)
    except (AttributeError, OSError, ValueError, termios.error):  # standard input is no terminal, or closed
        yield
        return
    quiet[0] &= ~termios.ICRNL  # Enter stays Enter
    quiet[3] &= ~(termios.ECHO | termios.ICANON)

    def suspend(number: int, frame: FrameType | None) -> None:
        now = termios.tcgetattr(descriptor)
        _set(descriptor, before)
        stop_process()
        _set(descriptor, now)

    _set(descriptor, quiet)
    handler = signal.signal(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, handler)
        _set(descriptor, before)


def stop_process() -> None:
    """Stop, as Ctrl-Z does where nothing is to be put back, until the process is continued."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)


def in_foreground(descriptor: int) -> bool:
    """Whether this process may use the terminal now; in the background a shell does."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # no terminal of this process
        return True


def _set(descriptor: int, attributes: Attributes) -> None:
    """Set the terminal's settings, unless that would stop this process."""
    if in_foreground(descriptor):
        with contextlib.suppress(termios.error):  # the terminal has gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, attributes)
