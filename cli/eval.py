"""`mlx-diffusion eval`: how well a checkpoint answers and at what cost, by mode and option, compared and drawn.

Knows the command line and the terminal, and nothing of how answers are measured.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_diffusion.cli.arguments import add_model, help_format
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.progress import ProgressLine, duration
from mlx_diffusion.cli.state import state_folder
from mlx_diffusion.errors import EvaluationError, OptionError

if TYPE_CHECKING:
    from mlx_diffusion.measure.answers.plan import EvaluationPlan
    from mlx_diffusion.measure.answers.record import Evaluation
    from mlx_diffusion.measure.answers.runs import EvaluationProgress

EPILOG = """\
examples:
  mlx-diffusion eval
  mlx-diffusion eval --suite lists --mode reference --mode confidence:0.9 -o eval.json
  mlx-diffusion eval --sweep max_denoising_steps=1,2,4,8,16,48 -o steps.json --plot steps.png
  mlx-diffusion eval --model ./mine-4bit --suite worded-lists,questions.jsonl --max-tokens 256
  mlx-diffusion eval --compare before.json after.json
  mlx-diffusion eval --show steps.json --plot steps.svg --markdown steps.md
  mlx-diffusion eval --recipes 8bit,4bit,2bit --count 50

suites:
  lists, squares (the default: the task set of ParallelBench), numbers, records, code, stories, thinking, tools;
  all of these; worded-lists, worded-squares, worded-numbers: the same in words, for checkpoints that did not train
  on the tasks;
  any single family (shuffle, worded-sort, ...); FILE.jsonl: lines of {"prompt": ..., "answer": ...}, where "regex" or
  "checker" (contains, number, json, permutation, insertion, removal, replacement, latin, sudoku) may stand for "answer"

modes:
  reference         the published sampler
  confidence:0.9    keep tokens of at least this probability
  random:0.5        keep tokens by chance: a broken sampler, to see that it shows

Interrupted, the same command goes on. Results go to standard output, all else to standard error.
Exit codes: 0 done, 1 the work failed, 2 wrong usage.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `eval` to the command's subcommands."""
    parser = commands.add_parser(
        "eval",
        help="measure how well a checkpoint answers and at what cost",
        usage="mlx-diffusion eval [OPTION ...]",
        description="Measure right answers and their cost on prompts that training never saw.",
        epilog=EPILOG,
        formatter_class=help_format,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, usage_error=parser.error)
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="all figures as one JSON object")

    what = parser.add_argument_group("what is measured")
    what.add_argument("--suite", metavar="S,S", help="suites, families or FILE.jsonl (default: lists,squares)")
    what.add_argument("--count", type=int, metavar="N", help="prompts of each family (default: 200)")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of the prompts and of the noise (default: 0)")
    what.add_argument("--max-tokens", type=int, metavar="N", help="the longest answer, in tokens (default: 128)")
    what.add_argument(
        "--mode", action="append", metavar="M", help="how to denoise, see below; may be repeated (default: reference)"
    )
    what.add_argument(
        "--sweep", action="append", default=[], metavar="F=V,V",
        help="run every mode with each value of an option, as in max_denoising_steps=4,8,16; may be repeated",
    )  # fmt: skip
    what.add_argument(
        "--recipes",
        metavar="R,R",
        help="what the converter's recipes cost: the model as it is beside each of them (an interrupt ends this)",
    )

    how = parser.add_argument_group("how it runs")
    how.add_argument("--batch-size", type=int, metavar="N", help="prompts in a batch (default: 1)")
    how.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with weights of its own (default: one a core, 1 on a GPU)",
    )

    results = parser.add_argument_group("results")
    results.add_argument("-o", "--output", type=Path, metavar="FILE", help="keep every prompt's outcome as JSON")
    results.add_argument("--answers", action="store_true", help="keep the answers in it, too")
    results.add_argument(
        "--plot", type=Path, action="append", default=[], metavar="FILE",
        help="draw accuracy against positions per token, as .png or .svg; may be repeated",
    )  # fmt: skip
    results.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as a Markdown page")
    earlier = results.add_mutually_exclusive_group()
    earlier.add_argument("--show", type=Path, metavar="FILE", help="the tables of an earlier --output; runs nothing")
    earlier.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="whether two outputs differ by more than chance"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, show or compare; returns the exit code."""
    _check_usage(args)
    if args.compare:
        return _compare(args)

    from mlx_diffusion.measure.answers import plots

    for file in args.plot:
        plots.check(file)
    if args.recipes is not None or (args.show and _is_of_recipes(args.show)):
        return _recipes(args)

    from mlx_diffusion.measure.answers import tables
    from mlx_diffusion.measure.answers.document import page
    from mlx_diffusion.measure.answers.figures import report
    from mlx_diffusion.measure.answers.record import Evaluation
    from mlx_diffusion.whole_files import write_whole

    record = Evaluation.read(args.show) if args.show else _measure(args)
    print(json.dumps(report(record), ensure_ascii=False) if args.json else tables.text(record))
    for file in args.plot:
        plots.draw(record, file)
    if args.markdown:
        source = args.show or args.output
        picture = next((file for file in args.plot if file.parent == args.markdown.parent), None)
        write_whole(args.markdown, page(record, source.name, picture and picture.name).encode(), error=EvaluationError)
    return 0


def _check_usage(args: argparse.Namespace) -> None:
    measuring = ("suite", "count", "mode", "sweep", "recipes", "output", "batch_size", "workers", "max_tokens")
    given = [name for name in measuring if getattr(args, name)]
    for name in ("count", "max_tokens", "batch_size", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            args.usage_error(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")
    if args.seed < 0:
        args.usage_error(f"--seed is {args.seed}; it must be 0 or more")
    if (args.show or args.compare) and given:
        args.usage_error(f"--{given[0].replace('_', '-')} measures, which --show and --compare do not; leave out one")
    if args.compare and (args.plot or args.markdown):
        args.usage_error("--compare draws and writes nothing; use --show for that")
    if args.recipes is not None and (args.plot or args.answers):
        args.usage_error("--recipes draws nothing and keeps no answers; leave out --plot and --answers")
    if args.markdown and not (args.output or args.show):
        args.usage_error("--markdown names the JSON file that it is made from; add --output FILE")
    if args.answers and not args.output:
        args.usage_error("--answers are kept in the output; add --output FILE")


def _plan(args: argparse.Namespace) -> "EvaluationPlan":
    """What the command line asks for. Raises OptionError."""
    from mlx_diffusion.measure.answers.plan import EvaluationPlan, ways
    from mlx_diffusion.measure.answers.session import DEFAULT_BATCH_SIZE, DEFAULT_MAX_TOKENS, items_from
    from mlx_diffusion.measure.answers.suites import DEFAULT_SUITES

    names = DEFAULT_SUITES if args.suite is None else [name.strip() for name in args.suite.split(",") if name.strip()]
    if not names:
        raise OptionError("--suite is empty; leave it out, or name suites, families or FILE.jsonl")
    chosen = ways(args.mode or ["reference"], args.sweep)
    return EvaluationPlan(
        items_from(names, args.count, args.seed),
        chosen,
        args.seed,
        args.max_tokens or DEFAULT_MAX_TOKENS,
        args.batch_size or DEFAULT_BATCH_SIZE,
    )


def _measure(args: argparse.Namespace) -> "Evaluation":
    from mlx_diffusion.measure.answers import session

    plan = _plan(args)
    try:
        with ProgressLine() as line:
            return session.run(
                args.model,
                plan,
                output=args.output,
                state=state_folder(os.environ) / "evaluations",
                answers=args.answers,
                workers=args.workers,
                report=lambda progress: line.show(progress_text(progress)),
                warn=say,
            )
    except KeyboardInterrupt:
        print("\nmlx-diffusion: what is measured stays; the same command goes on", end="", file=sys.stderr)
        raise


def progress_text(progress: "EvaluationProgress") -> str:
    """One line: how much, how many right so far, how long."""
    left = progress.seconds_left
    right = f"{progress.right / progress.done:.0%} right" if progress.done else "nothing yet"
    return (
        f"{progress.done / progress.total:4.0%} · {progress.done} of {progress.total} prompts, {right} · "
        f"{'?' if left is None else duration(left)} left · {progress.doing}"
    )


def _compare(args: argparse.Namespace) -> int:
    from mlx_diffusion.measure.answers import tables
    from mlx_diffusion.measure.answers.comparison import compare
    from mlx_diffusion.measure.answers.record import Evaluation

    found = compare(*map(Evaluation.read, args.compare))
    if args.json:
        print(json.dumps([comparison.as_dict() for comparison in found], ensure_ascii=False))
    else:
        print("\n\n".join(tables.comparison_text(comparison) for comparison in found))
    return 0


def _is_of_recipes(file: Path) -> bool:
    """Whether a file holds what recipes cost, by its beginning."""
    from mlx_diffusion.measure.answers.recipe_costs import FORMAT

    try:
        with file.open("rb") as stream:
            return FORMAT.encode() in stream.read(200)
    except OSError:
        return False  # reading it as a record says what is wrong


def _recipes(args: argparse.Namespace) -> int:
    """What recipes cost, measured or shown."""
    from mlx_diffusion.convert import convert
    from mlx_diffusion.measure.answers.recipe_costs import CostReport, costs
    from mlx_diffusion.whole_files import write_whole

    if args.show:
        report = CostReport.from_dict(json.loads(args.show.read_bytes()))
    else:
        names = [name.strip() for name in args.recipes.split(",") if name.strip()]
        with ProgressLine() as line:
            report = costs(args.model, names, _plan(args), convert, workers=args.workers, report=line.show, warn=say)
    if args.output:
        write_whole(args.output, (json.dumps(report.as_dict(), indent=1) + "\n").encode(), error=EvaluationError)
    if args.markdown:
        write_whole(args.markdown, report.page((args.show or args.output).name).encode(), error=EvaluationError)
    print(json.dumps(report.as_dict(), ensure_ascii=False) if args.json else report.text())
    return 0
