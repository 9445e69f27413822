"""`mlx-diffusion infill`: writes what belongs into the gaps of a file.

Knows the command line, and nothing of how a gap is filled.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_diffusion.cli.arguments import (
    REAL_MODEL,
    TOY_NOTICE,
    add_command,
    add_generation_options,
    add_model,
    add_revision,
    build_config,
)
from mlx_diffusion.cli.infill.target import Target, at_markers, at_place, in_range, read_text, write_text
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.passing_line import PassingLine
from mlx_diffusion.cli.report import news
from mlx_diffusion.cli.streams import err, out, out_json

if TYPE_CHECKING:
    from mlx_diffusion.events import Event, Finish

MARKER = "<FILL>"
EPILOG = f"""\
examples:
  mlx-diffusion infill notes.txt
  mlx-diffusion infill --context "Sort: fig oak ant" list.txt --marker ___
  mlx-diffusion infill --model {REAL_MODEL} --at 12:5 --language Python code.py --diff
  mlx-diffusion infill --model {REAL_MODEL} --range 3-7 --context "Say it in three lines." letter.txt --in-place
  echo "fig <FILL> ant" | mlx-diffusion infill - --json

Without --at and --range, every {MARKER} of the file is a gap; several are filled one after the other. A gap's text goes
to standard output as it is, without a line's end of its own, those of several gaps on a line each; all else goes to
standard error.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `infill` to the command's subcommands."""
    parser = add_command(
        commands,
        "infill",
        run,
        help="write what belongs into the gaps of a file",
        usage="[OPTION ...] FILE",
        description="Write what belongs into the gaps of a file, with the text on both sides in view.",
        epilog=EPILOG,
    )
    parser.add_argument("file", metavar="FILE", help='a text file; "-": standard input')
    add_model(parser)
    add_revision(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object: gaps, text, stats, model, seed")

    where = parser.add_argument_group("the gap").add_mutually_exclusive_group()
    where.add_argument("--at", metavar="LINE:COLUMN", help="a place, both from 1; nothing is replaced")
    where.add_argument("--range", metavar="A-B", help="lines A to B, or L:C-L:C, which are replaced")
    where.add_argument("--marker", action="append", metavar="TEXT", help=f"what marks a gap (default: {MARKER})")

    what = parser.add_argument_group("what belongs there")
    what.add_argument("--context", default="", metavar="TEXT", help="what is asked for, or what there is to know")
    what.add_argument("--language", default="", metavar="NAME", help="what the file is in, as Python or French")
    what.add_argument(
        "--show-text", action=argparse.BooleanOptionalAction,
        help="show the text in the prompt, too (default: where there is no context, or much behind a gap)",
    )  # fmt: skip
    what.add_argument("--gap-tokens", type=int, metavar="N", help="how many tokens a gap has, where that is known")

    result = parser.add_argument_group("the result").add_mutually_exclusive_group()
    result.add_argument("--in-place", action="store_true", help="change the file instead of printing the gap")
    result.add_argument("--diff", action="store_true", help="print what would change")
    add_generation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Fill the gaps, and print or write them; returns the exit code."""
    if args.in_place and args.file == "-":
        args.usage_error("--in-place changes a file, and standard input is none; leave it out")
    if args.marker is not None and len(args.marker) > 1:
        args.usage_error("--marker is given twice; one text marks every gap")
    config = build_config(args)
    target = _target(args)

    from mlx_diffusion.filling.infilling import stream_gaps
    from mlx_diffusion.opening import open_model

    if args.model == "demo":
        err(TOY_NOTICE, end="")
    model, tokenizer = open_model(args.model, say, args.revision)
    settings = model.generation_defaults.resolve(config)
    events = stream_gaps(
        model,
        tokenizer,
        target.parts,
        gap_tokens=args.gap_tokens,
        context=args.context,
        language=args.language,
        show_text=args.show_text,
        config=config,
    )
    written, finished = _gathered(events, len(target.gaps), settings.most_steps, args.json)
    whole = target.filled(written)
    if args.in_place:
        write_text(Path(args.file), whole)
    if args.json:
        out_json(_fields(target, written, whole, finished, args.model, settings.seed))
    elif args.diff:
        out(target.diff(whole), end="")
    elif not args.in_place:
        exact = len(written) == 1 and not sys.stdout.isatty()
        out("\n".join(written), end="" if exact else "\n")
    return 0


def _target(args: argparse.Namespace) -> Target:
    text = read_text(args.file)
    name = "standard input" if args.file == "-" else args.file
    if args.at is not None:
        return at_place(name, text, args.at)
    if args.range is not None:
        return in_range(name, text, args.range)
    return at_markers(name, text, MARKER if args.marker is None else args.marker[0])


def _gathered(events: Iterator[Event], count: int, steps: int, quiet: bool) -> tuple[list[str], list[Finish]]:
    """The text of every gap, and the figures; on a terminal how far the work is."""
    from mlx_diffusion import Finish

    written, finished = [""] * count, []
    with PassingLine(wanted=not quiet) as line:
        for event in events:
            written[event.row] += event.text
            line.show(news(event, steps) if count == 1 else f"gap {event.row + 1} of {count} · {news(event, steps)}")
            if isinstance(event, Finish):
                finished.append(event)
    return written, finished


def _fields(
    target: Target, written: list[str], whole: str, finished: list[Finish], model: str, seed: int
) -> dict[str, Any]:
    """The JSON object of `--json`."""
    gaps = []
    for number, (text, finish) in enumerate(zip(written, finished, strict=True)):
        line, column = target.place_of(number)
        gaps.append({"text": text, "line": line, "column": column, "stats": dataclasses.asdict(finish.stats)})
    return {"gaps": gaps, "text": whole, "model": model, "seed": seed}
