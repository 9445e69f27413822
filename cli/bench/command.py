"""The command line of `mlx-diffusion bench`: what is asked for, and how the results are printed.

Knows the terminal, and nothing of how anything is measured.
"""

import argparse
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, RECIPES
from mlx_diffusion.cli.arguments import REAL_MODEL, add_command, add_model, add_revision
from mlx_diffusion.cli.bench import PUBLISHED
from mlx_diffusion.cli.bench.numbers import size, sizes
from mlx_diffusion.cli.bench.predicting import add_prediction, asked, check_prediction
from mlx_diffusion.cli.bench.replaying import check_replay, replayed
from mlx_diffusion.cli.bench.serving import add_serving, check_serving, served_loads, served_sections
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.cli.streams import out, out_json, window_of
from mlx_diffusion.errors import EvaluationError, OptionError
from mlx_diffusion.modes import CAUSAL, DENOISING, MODES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from mlx_diffusion.measure import BenchmarkResults, TitledTable

PEERS = ("mlx-vlm",)
TABLE_WIDTH = 120  # where the output is no terminal

EPILOG = f"""\
examples:
  mlx-diffusion bench
  mlx-diffusion bench --model {REAL_MODEL} --prompt-tokens 100,4000 --plot bench.png
  mlx-diffusion bench --synthetic {PUBLISHED} --recipe 4bit --layers 2 --canvas-length 32 --steps 4
  mlx-diffusion bench --against mlx-vlm --steps 8 --output-tokens 64 --json > bench.json
  mlx-diffusion bench --predict --recipe 4bit-small
  mlx-diffusion bench --serve --clients 1,4,16 --against mlx-vlm

Prompts are random tokens, and no token ends the text. A canvas is denoised until the checkpoint's
rule ends it, which on random prompts may be soon; --steps fixes the work instead. How many drafted
tokens hold in mode speculative depends on the text: behind random tokens that says little of yours. Times are medians
of --repeat runs behind one that does not count, with the lowest and the highest in brackets.
Results go to standard output, all else to standard error.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench` to the command's subcommands."""
    parser = add_command(
        commands,
        "bench",
        run,
        help="measure speed and memory here, or predict the speed on Apple's chips",
        usage="[OPTION ...]",
        description="Measure how fast a checkpoint runs here, in how much memory, and how near that comes to what the "
        "device itself reaches. With --predict, say instead how fast the published model would be on each of Apple's "
        "chips, without running it.",
        epilog=EPILOG,
    )
    add_model(parser)
    add_revision(parser)
    parser.add_argument("--json", action="store_true", help="the results as one JSON object")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the results too, into FILE.png or FILE.svg")

    cases = parser.add_argument_group("what is run (every combination)")
    cases.add_argument(
        "--prompt-tokens", type=sizes, default=(100, 1000), metavar="N,...", help="prompt lengths (default: 100,1000)"
    )
    cases.add_argument(
        "--output-tokens", type=sizes, default=(64, 256), metavar="N,...", help="text lengths (default: 64,256)"
    )
    cases.add_argument(
        "--mode",
        action="append",
        choices=MODES,
        help=f"how texts are written; may be repeated (default: {MODES[0]})",
    )
    cases.add_argument("--steps", type=size, metavar="N", help="take exactly N denoising steps a canvas")
    cases.add_argument("--repeat", type=size, default=3, metavar="N", help="how often each is run (default: 3)")
    cases.add_argument("--no-warm-up", action="store_true", help="count the first run too, where a run takes minutes")
    cases.add_argument("--seed", type=int, default=0, metavar="N", help="of the prompts and of the text (default: 0)")
    cases.add_argument("--prefill-step-size", type=size, metavar="N", help="the most prompt tokens encoded at once")
    cases.add_argument("--canvas-length", type=size, metavar="L", help="denoise canvases of L positions")
    cases.add_argument(
        "--context",
        type=size,
        metavar="N",
        help="run prompts past the model's context, up to N positions, for the time alone",
    )

    _add_random_weights(parser)
    add_prediction(parser)
    add_serving(parser)

    peers = parser.add_argument_group("a peer")
    peers.add_argument(
        "--against", choices=PEERS, metavar="PEER",
        help="run every case by the installed mlx-vlm in turn, and print ratios (pip install mlx-vlm)",
    )  # fmt: skip


def _add_random_weights(parser: argparse.ArgumentParser) -> None:
    synthetic = parser.add_argument_group("a model with random weights, made in memory")
    synthetic.add_argument(
        "--synthetic", metavar="CONFIG",
        help=f'a folder with a config.json, or "{PUBLISHED}" for that of the published 26B model',
    )  # fmt: skip
    synthetic.add_argument(
        "--recipe", metavar="R", help=f"its formats: one of {', '.join(RECIPES)} (default: {DEFAULT_RECIPE})"
    )
    synthetic.add_argument("--layers", type=size, metavar="N", help="its last N layers alone")


def run(args: argparse.Namespace) -> int:
    """Measure or predict, and print; returns the exit code."""
    check_prediction(args)
    check_serving(args)
    if args.predict:
        return _predict(args)
    if args.record is not None:
        return _replay(args)
    if args.serve:
        return _serve(args)
    if args.mode and not set(args.mode) & set(DENOISING):
        for name in ("steps", "against"):
            if getattr(args, name):
                args.usage_error(f"--{name} is of denoising; add --mode {DENOISING[0]}, or leave it out")
    if args.against and set(args.mode or ()) & set(CAUSAL):
        args.usage_error("the peer denoises alone; leave out --against, or other modes")
    if args.synthetic is None and (args.recipe or args.layers):
        args.usage_error("--recipe and --layers are for a model with random weights; add --synthetic CONFIG")
    if args.synthetic is not None and args.model != "demo":
        args.usage_error("--model and --synthetic exclude each other; leave out one of them")

    from mlx_diffusion.measure import benchmark_plot, benchmark_sections, check_plot
    from mlx_diffusion.whole_files import write_whole

    if args.plot:
        check_plot(args.plot, missing=OptionError)
    with ProgressLine() as line:
        results = _measure(args, line)
    if args.json:
        out_json(results.as_dict())
    else:
        _show(benchmark_sections(results))
    if args.plot:
        write_whole(args.plot, benchmark_plot(results, args.plot.suffix), error=EvaluationError)
        say(f"drawn into {args.plot}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    """Print a prediction; returns the exit code."""
    from mlx_diffusion.measure import predict_chips, prediction_sections, predictions_dict

    with ProgressLine() as line:
        question = asked(args, line)
    found = predict_chips(question)
    if args.json:
        out_json(predictions_dict(question, found))
    else:
        _show(prediction_sections(question, found))
    return 0


def _replay(args: argparse.Namespace) -> int:
    """Take recorded passes again and print; returns the exit code."""
    check_replay(args)

    from mlx_diffusion.fit.machine import this_machine
    from mlx_diffusion.measure import replayed_sections

    with ProgressLine() as line:
        name, found = replayed(args, this_machine(), line)
    if args.json:
        out_json({"model": name, "replayed": [one.as_dict() for one in found]})
    else:
        _show(replayed_sections(name, found))
    return 0


def _serve(args: argparse.Namespace) -> int:
    """Measure servers and print; returns the exit code."""
    with ProgressLine() as line:
        found = served_loads(args, line)
    if args.json:
        out_json({"servers": {name: [load.as_dict() for load in loads] for name, loads in found.items()}})
    else:
        _show(served_sections(found))
    return 0


def _measure(args: argparse.Namespace, line: ProgressLine) -> "BenchmarkResults":
    """Everything between the command line and what is printed."""
    from mlx_diffusion.cli.bench.opening import opened
    from mlx_diffusion.fit.machine import this_machine
    from mlx_diffusion.measure import check_peer_installed

    if args.against:
        check_peer_installed()
    machine = this_machine()
    with opened(args, machine, line) as benchmark:
        return benchmark.run(args.repeat, machine.as_dict(), line.announce, line.show, warm_up=not args.no_warm_up)


def _show(sections: "Iterable[TitledTable | str]") -> None:
    from rich.console import Console

    width = window_of(sys.stdout)[0] if sys.stdout.isatty() else TABLE_WIDTH
    text = StringIO()
    print_sections(sections, Console(file=text, width=width, highlight=False, markup=False, emoji=False))
    out(text.getvalue(), end="")


def print_sections(sections: "Iterable[TitledTable | str]", console: "Console") -> None:
    """Print the sections with empty lines between them. Where there is no room, cells are wrapped and never cut."""
    from rich.table import Table

    for index, section in enumerate(sections):
        if index:
            console.print()
        if isinstance(section, str):
            console.print(section)
            continue
        drawn = Table(title=section.title, title_justify="left", box=None, pad_edge=False)
        for column, name in enumerate(section.header):
            drawn.add_column(name, justify="left" if section.holds_words(column) else "right", overflow="fold")
        for row in section.rows:
            drawn.add_row(*row)
        console.print(drawn)
