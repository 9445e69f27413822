"""The command line of `mlx-diffusion eval`: what is measured of a checkpoint's answers, and how it is shown.

Knows the command line and the terminal, and nothing of how answers are measured.
"""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_diffusion.cli.arguments import add_command, add_model, add_revision
from mlx_diffusion.cli.eval.calibrating import run_calibration
from mlx_diffusion.cli.eval.known import is_known, run_known
from mlx_diffusion.cli.eval.usage import EPILOG, check_usage
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.cli.streams import err, out_result
from mlx_diffusion.display import count_of, left_text
from mlx_diffusion.errors import EvaluationError, OptionError
from mlx_diffusion.state import state_folder

if TYPE_CHECKING:
    from mlx_diffusion.measure import CostReport, Evaluation, EvaluationPlan, EvaluationProgress


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `eval` to the command's subcommands."""
    parser = add_command(
        commands,
        "eval",
        run,
        help="measure how well a checkpoint answers and at what cost",
        usage="[OPTION ...]",
        description="Measure right answers and their cost on prompts that training never saw.",
        epilog=EPILOG,
    )
    add_model(parser)
    add_revision(parser)
    parser.add_argument("--json", action="store_true", help="all figures as one JSON object")
    _add_subject(parser.add_argument_group("what is measured"))

    how = parser.add_argument_group("how it runs")
    how.add_argument("--batch-size", type=int, metavar="N", help="prompts in a batch (default: 1; of --calibrate: 16)")
    how.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with weights of its own (default: one a core, 1 on a GPU)",
    )
    _add_results(parser.add_argument_group("results"))


def _add_subject(what: "argparse._ArgumentGroup") -> None:
    what.add_argument("--suite", metavar="S,S", help="suites, families or FILE.jsonl (default: lists,squares)")
    what.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="prompts of each family (default: 200), or of --calibrate (1000)",
    )
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of the prompts and of the noise (default: 0)")
    what.add_argument("--max-tokens", type=int, metavar="N", help="the longest answer, in tokens (default: 128)")
    what.add_argument(
        "--mode", action="append", metavar="M", help="how to write, see below; may be repeated (default: reference)"
    )
    what.add_argument(
        "--sweep", action="append", default=[], metavar="F=V,V",
        help="run every mode with each value of an option, as in max_denoising_steps=4,8,16; may be repeated",
    )  # fmt: skip
    what.add_argument(
        "--recipes",
        metavar="R,R",
        help="what recipes cost, the converter's or those of recipe files: the model as it is beside each of them "
        "(an interrupt ends this)",
    )
    what.add_argument(
        "--calibrate",
        action="store_true",
        help="find the levers that hold on this checkpoint, for modes balanced and fast, and keep them in speed.json",
    )


def _add_results(results: "argparse._ArgumentGroup") -> None:
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
    check_usage(args)
    if args.calibrate:
        return run_calibration(args)
    if args.compare:
        return _compare(args)
    suites = _names(args.suite or "")
    if any(map(is_known, suites)):
        return run_known(args, suites)

    from mlx_diffusion.measure import check_plot, is_cost_report

    for file in args.plot:
        check_plot(file)
    if args.recipes is not None or (args.show and is_cost_report(args.show)):
        return _recipes(args)
    return _evaluation(args)


def _evaluation(args: argparse.Namespace) -> int:
    """An evaluation, measured or shown."""
    from mlx_diffusion.measure import Evaluation, evaluation_plot, evaluation_text, figures_dict, markdown_page
    from mlx_diffusion.whole_files import write_whole

    evaluation = Evaluation.read(args.show) if args.show else _measure(args)
    out_result(args.json, lambda: figures_dict(evaluation), lambda: evaluation_text(evaluation))
    for file in args.plot:
        write_whole(file, evaluation_plot(evaluation, file.suffix), error=EvaluationError)
    if args.markdown:
        picture = next((file for file in args.plot if file.parent == args.markdown.parent), None)
        page = markdown_page(evaluation, (args.show or args.output).name, picture and picture.name)
        write_whole(args.markdown, page.encode(), error=EvaluationError)
    return 0


def _plan(args: argparse.Namespace) -> "EvaluationPlan":
    """The plan that the command line asks for. Raises OptionError."""
    from mlx_diffusion.measure import make_plan

    suites = None if args.suite is None else _names(args.suite)
    if suites == []:
        raise OptionError("--suite is empty; leave it out, or name suites, families or FILE.jsonl")
    return make_plan(
        suites,
        count=args.count,
        modes=args.mode,
        sweeps=args.sweep,
        seed=args.seed,
        max_tokens=args.max_tokens,
        batch_size=args.batch_size,
    )


def _names(listed: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def _measure(args: argparse.Namespace) -> "Evaluation":
    from mlx_diffusion.measure import evaluate

    plan = _plan(args)
    try:
        with ProgressLine() as line:
            return evaluate(
                args.model,
                plan,
                output=args.output,
                state=state_folder(os.environ) / "evaluations",
                answers=args.answers,
                workers=args.workers,
                report=lambda progress: line.show(progress_text(progress)),
                warn=say,
                revision=args.revision,
            )
    except KeyboardInterrupt:
        err("\nmlx-diffusion: what is measured stays; the same command goes on", end="")
        raise


def progress_text(progress: "EvaluationProgress") -> str:
    """One line: how many prompts are done, how many of them right, how long the rest will take."""
    right = f"{progress.right / progress.done:.0%} right" if progress.done else "nothing yet"
    return (
        f"{progress.done / progress.total:4.0%} · {progress.done} of {count_of(progress.total, 'prompt')}, {right} · "
        f"{left_text(progress.seconds_left)} · {progress.doing}"
    )


def _compare(args: argparse.Namespace) -> int:
    from mlx_diffusion.measure import Evaluation, compare, comparison_text

    found = compare(*map(Evaluation.read, args.compare))
    out_result(
        args.json,
        lambda: [comparison.as_dict() for comparison in found],
        lambda: "\n\n".join(map(comparison_text, found)),
    )
    return 0


def _recipes(args: argparse.Namespace) -> int:
    """The costs of recipes, measured or shown."""
    from mlx_diffusion.measure import CostReport
    from mlx_diffusion.whole_files import write_whole

    report = CostReport.read(args.show) if args.show else _measure_recipes(args)
    if args.output:
        write_whole(args.output, (json.dumps(report.as_dict(), indent=1) + "\n").encode(), error=EvaluationError)
    if args.markdown:
        write_whole(args.markdown, report.page((args.show or args.output).name).encode(), error=EvaluationError)
    out_result(args.json, report.as_dict, report.text)
    return 0


def _measure_recipes(args: argparse.Namespace) -> "CostReport":
    from mlx_diffusion.convert import convert
    from mlx_diffusion.measure import measure_recipes

    with ProgressLine() as line:
        return measure_recipes(
            args.model, _names(args.recipes), _plan(args), convert, workers=args.workers, report=line.show, warn=say
        )
