"""The frame of the command: finds the subcommand, runs it, and turns its errors into lines and exit codes.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted. Knows nothing of what the subcommands do. They
import what is heavy when they run, so that --help and wrong usage answer at once.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from mlx_diffusion import __version__
from mlx_diffusion.cli import convert, doctor, eval, generate
from mlx_diffusion.cli.bench import command as bench
from mlx_diffusion.cli.chat import command as chat
from mlx_diffusion.errors import DiffusionError, OptionError

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
    parser = argparse.ArgumentParser(
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
    convert.add_parser(commands)
    eval.add_parser(commands)
    bench.add_parser(commands)
    doctor.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's arguments); returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv, argparse.Namespace(argv=list(argv)))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it warns of long prompts, which we refuse
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # else it advises to install PyTorch
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except DiffusionError as error:
        print(f"mlx-diffusion: {_one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    except (MemoryError, RuntimeError) as error:
        if not _is_about_memory(error):
            raise
        reason = str(error).strip().split("\n")[0] or "the system gives no more"
        print(f"mlx-diffusion: out of memory ({reason}); `mlx-diffusion doctor` says what fits here", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmlx-diffusion: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone, and may; keep Python from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _one_line(text: str) -> str:
    """The text with control characters, which file names may have, written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_about_memory(error: MemoryError | RuntimeError) -> bool:
    """True if memory ran out; MLX has no type for that error, so its message is searched."""
    return (
        isinstance(error, MemoryError)
        or re.search("allocat|insufficient memory", str(error), re.IGNORECASE) is not None
    )
