"""The frame of the command: finds the subcommand, runs it, and turns its errors into lines and exit codes.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated. Knows nothing of what the
subcommands do. They import what is heavy when they run, so that --help and wrong usage answer at once.
"""

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType

from mlx_diffusion import __version__
from mlx_diffusion.cli import convert, doctor, generate, serve
from mlx_diffusion.cli.arguments import Parser
from mlx_diffusion.cli.bench import command as bench
from mlx_diffusion.cli.chat import command as chat
from mlx_diffusion.cli.eval import command as evaluation
from mlx_diffusion.cli.infill import command as infill
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.streams import OutputError, err, let_go, out, prepare
from mlx_diffusion.errors import DiffusionError, OptionError

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

DESCRIPTION = """\
DiffusionGemma on MLX: text that is written by denoising.

A canvas of random tokens is refined, all positions at once, until it settles
into text; then the next canvas follows.
"""

EPILOG = """\
examples:
  mlx-diffusion chat
  mlx-diffusion generate "Sort: fig oak ant"
  mlx-diffusion generate --model mlx-community/diffusiongemma-26B-A4B-it-4bit "Why is the sky blue?"
  mlx-diffusion convert google/diffusiongemma-26B-A4B-it diffusiongemma-4bit --stream
  mlx-diffusion eval --sweep max_denoising_steps=4,8,16 --plot steps.png
  mlx-diffusion generate --help
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command and of all its subcommands."""
    parser: argparse.ArgumentParser = Parser(
        prog="mlx-diffusion",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chat.add_parser(commands)
    generate.add_parser(commands)
    infill.add_parser(commands)
    serve.add_parser(commands)
    convert.add_parser(commands)
    evaluation.add_parser(commands)
    bench.add_parser(commands)
    doctor.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's arguments); returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it warns of long prompts, which we refuse
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # else it advises to install PyTorch
    try:
        prepare()
        with ended_by_signals(), warned_in_a_line():
            return _run(sys.argv[1:] if argv is None else argv)
    except OutputError as error:
        say(str(error))
        let_go()
        return 1
    except DiffusionError as error:
        say(str(error))
        return 2 if isinstance(error, OptionError) else 1
    except (MemoryError, RuntimeError) as error:
        if not _is_about_memory(error):
            raise
        reason = str(error).strip().split("\n")[0] or "the system gives no more"
        say(f"out of memory ({reason}); `mlx-diffusion doctor` says what fits here")
        return 1
    except KeyboardInterrupt:
        err("")
        say("interrupted")
        return 130
    except BrokenPipeError:
        let_go()  # the reader has gone, and may
        return 1


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals that end a process do so as an exception, so that all is put back that was to be."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        ignored = {number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN}  # as nohup asks for
        handlers = {number: signal.signal(number, end) for number in ENDING if number not in ignored}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def warned_in_a_line() -> Iterator[None]:
    """Print what the library warns of as this command's own lines."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **named: say(str(message))
        yield


def _run(argv: Sequence[str]) -> int:
    """Run the subcommand, and make sure that all it printed is written, be it help alone."""
    try:
        args = build_parser().parse_args(argv, argparse.Namespace(argv=list(argv)))
        code: int = args.run(args)
        return code
    finally:
        out("", end="")


def _is_about_memory(error: MemoryError | RuntimeError) -> bool:
    """True if memory ran out; MLX has no type for that error, so its message is searched."""
    return (
        isinstance(error, MemoryError)
        or re.search("allocat|insufficient memory", str(error), re.IGNORECASE) is not None
    )
