"""The standard streams: the one place through which all text of the command leaves it, apart from the chat's drawing.

On a terminal, text that would steer it is written out; files and pipes get text as it is. A stream that is closed, full
or in an encoding that lacks a character is met here. Knows nothing of what the text says.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from mlx_diffusion.errors import DiffusionError
from mlx_diffusion.visible_text import visible

LAST_STANDARD = 2  # the number of standard error
USUAL_WINDOW = 80, 24  # columns and rows, where a terminal does not say


class OutputError(DiffusionError):
    """Standard output that is closed or cannot be written."""


def prepare() -> None:
    """Make the streams fit for any text, and a closed standard error one that swallows it. Raises OutputError."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD:
        pass  # so that no other file gets the number of a standard stream that is closed
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise OutputError("standard output is closed; send it somewhere, as in: > file, or > /dev/null")


def out(text: str, end: str = "\n") -> None:
    """Write to standard output, at once. Raises OutputError, and BrokenPipeError if the reader has gone."""
    write(sys.stdout, text + end)


def out_json(value: object) -> None:
    """Write a value as one line of JSON, whose characters are escaped where the stream's encoding may lack them."""
    out(json.dumps(value, ensure_ascii=not has_all_characters(sys.stdout)))


def out_result(as_json: bool, value: Callable[[], object], text: Callable[[], str]) -> None:
    """Write a result in the one of its two forms that is asked for."""
    if as_json:
        out_json(value())
    else:
        out(text())


def err(text: str, end: str = "\n") -> None:
    """Write to standard error, at once; where that cannot be done, nobody could be told."""
    with suppress(OSError, OutputError):
        write(sys.stderr, text + end)


def err_raw(text: str) -> None:
    """Write to standard error what is to steer its terminal."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def write(stream: IO[str], text: str) -> None:
    """Write text to a stream at once. Raises OutputError, and BrokenPipeError if the reader has gone."""
    try:
        stream.write(visible(text) if stream.isatty() else text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"the output cannot be written ({error.strerror}); make room, or send it elsewhere") from None


def let_go() -> None:
    """Keep Python from writing to standard output at its end what could not be written before."""
    with suppress(AttributeError, OSError, ValueError):  # no stream, or none of the system's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def has_all_characters(stream: IO[str]) -> bool:
    """Whether every character can be written to a stream."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def window_of(stream: IO[str]) -> tuple[int, int]:
    """The columns and rows of the terminal behind a stream, at this moment; the usual ones where it has none."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        columns, rows = 0, 0
    return columns or USUAL_WINDOW[0], rows or USUAL_WINDOW[1]
