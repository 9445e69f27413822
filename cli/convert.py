"""`mlx-diffusion convert`: converts a Hub checkpoint to an MLX checkpoint.

Knows the command line and the terminal, and nothing of how weights are converted.
"""

import argparse
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, RECIPES
from mlx_diffusion.cli.arguments import add_command
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.cli.streams import err, out, out_json, out_result
from mlx_diffusion.display import count_of, duration, left_text, size_text
from mlx_diffusion.errors import ConversionError, DiffusionError, OptionError

if TYPE_CHECKING:
    from mlx_diffusion.convert import Progress, Result

EPILOG = """\
examples:
  mlx-diffusion convert google/diffusiongemma-26B-A4B-it --dry-run
  mlx-diffusion convert google/diffusiongemma-26B-A4B-it diffusiongemma-4bit --stream
  mlx-diffusion convert ./diffusiongemma diffusiongemma-mxfp4 --recipe mxfp4 --verify
  mlx-diffusion convert ./diffusiongemma mine --recipe 3bit --set '*.self_attn.*=6' --set '*.layers.0.*=8,32'

Interrupted, by whatever, the same command goes on. Results go to standard output, all else to standard error.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""


OPTIONS = (  # what the library calls its arguments and functions, and the command its options
    (r"\bbudget=", "--budget"),
    (r"\brecipe='(.+?)'", r"--recipe \1"),
    (r"\bforce=True", "--force"),
    (r"\bstream=True", "--stream"),
    (r"\brules=\[(.+?)\]", r"--set \1"),
    (r"\brevision=\.\.\.", "--revision"),
    (r"\btokenizer=\.\.\.", "--tokenizer"),
    (r"\bverify\(\)", "--verify"),
    (r"\bupload\(\)", "--upload-to"),
    (r"\bthe same call\b", "the same command"),
)


UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `convert` to the command's subcommands."""
    parser = add_command(
        commands,
        "convert",
        run,
        help="convert and quantise a Hub checkpoint",
        usage="[OPTION ...] SOURCE TARGET",
        description="Convert and quantise a Hub checkpoint for MLX, in little memory and on little disk.",
        epilog=EPILOG,
    )

    parser.add_argument("source", metavar="SOURCE", help="a folder, a Hub id or a GGUF: bf16, FP8, NVFP4 …")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="the folder that is written")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.add_argument("--dry-run", action="store_true", help="only say how large it becomes and where it fits")

    how = parser.add_argument_group("what is kept")
    how.add_argument(
        "--recipe", metavar="R", help=f"one of {', '.join(RECIPES)}, or a recipe's file (default: {DEFAULT_RECIPE})"
    )
    how.add_argument(
        "--budget", metavar="SIZE",
        help="the recipe that loses least in so many bytes, as 14GB: measured on the source, group by group",
    )  # fmt: skip
    how.add_argument(
        "--set", action="append", default=[], metavar="RULE",
        help="'PATTERN=bits[,group][,mode][,fitted]' or 'PATTERN=bf16' for these modules; the last that fits counts",
    )  # fmt: skip

    where = parser.add_argument_group("the source and the output")
    where.add_argument("--revision", metavar="REV", help="a branch, tag or commit of the Hub repository")
    where.add_argument("--tokenizer", metavar="FOLDER", help="for a GGUF: take this folder's tokenizer and template")
    where.add_argument("--stream", action="store_true", help="fetch, convert and drop one weight file at a time")
    where.add_argument("--force", action="store_true", help="replace what is in TARGET")
    where.add_argument("--verify", action="store_true", help="compare the output with the source, layer by layer")
    where.add_argument("--upload-to", metavar="REPO", help="upload the output to this Hub repository")


def run(args: argparse.Namespace) -> int:
    """Convert, or predict a conversion; returns the exit code."""
    try:
        return _run(args)
    except DiffusionError as error:
        raise type(error)(in_options(str(error))) from error


def in_options(text: str) -> str:
    """What the library says, which speaks of its arguments, in the command's options."""
    for name, option in OPTIONS:
        text = re.sub(name, option, text)
    return text


def _run(args: argparse.Namespace) -> int:
    if args.budget is not None and (args.recipe is not None or args.dry_run or args.stream):
        other = "--recipe" if args.recipe is not None else "--dry-run" if args.dry_run else "--stream"
        args.usage_error(f"--budget finds the recipe by measuring the source as a whole; leave out {other}")
    if args.dry_run:
        return _dry_run(args)
    if not args.target:
        args.usage_error("TARGET is missing: the folder that is to be written (or add --dry-run)")
    if args.verify and args.stream:
        args.usage_error("--verify compares with the source's weights, which --stream drops; leave out one of them")

    try:
        return _work(args)
    except KeyboardInterrupt:
        err("\nmlx-diffusion: what is written stays; the same command goes on", end="")
        raise


def _work(args: argparse.Namespace) -> int:
    if args.upload_to:
        from mlx_diffusion.convert.upload import check_upload

        check_upload(args.upload_to)
    result = _convert(args)
    err(_summary(result))
    answer = result.as_dict()
    sound = not args.verify or _verify(args, result, answer)
    if sound and args.upload_to:
        _upload(args, result, answer)
    if args.json:
        out_json(answer)
    if not sound:
        raise ConversionError(
            f"{result.target} differs from its source by more than it may, see the table; convert anew with --force"
        )
    return 0


def _convert(args: argparse.Namespace) -> "Result":
    from mlx_diffusion.convert import convert

    with ProgressLine() as line:
        return convert(
            args.source,
            args.target,
            DEFAULT_RECIPE if args.recipe is None else args.recipe,
            budget=None if args.budget is None else parse_budget(args.budget),
            rules=args.set,
            stream=args.stream,
            force=args.force,
            reuse=bool(args.verify or args.upload_to),
            revision=args.revision,
            tokenizer=args.tokenizer,
            report=lambda progress: line.show(progress_text(progress)),
            measuring=lambda share, label: line.show(f"{share:4.0%} · measuring, {label}"),
            command=shlex.join(["mlx-diffusion", *args.argv]),
            warn=lambda line: say(in_options(line)),
        )


def parse_budget(text: str) -> int:
    """Bytes, from a text like 14GB, 3.5 MB or 14000000000. Raises OptionError."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE | re.ASCII)
    nbytes = round(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if nbytes < 1:
        raise OptionError(f"--budget {text!r} is no size; give one like 14GB")
    return nbytes


def progress_text(progress: "Progress") -> str:
    """One line: how much, how fast, how long."""
    return (
        f"{progress.fraction:4.0%} · {size_text(progress.done_bytes)} of {size_text(progress.total_bytes)} · "
        f"{progress.bytes_per_second / 1e6:.0f} MB/s · {left_text(progress.seconds_left)} · {progress.file}"
    )


def _summary(result: "Result") -> str:
    if result.finished_earlier:
        return f"{result.target}: finished before, {size_text(result.total_bytes)}; nothing is converted again"
    files = count_of(len(result.files), "weight file")
    earlier = f" ({result.files_from_earlier} from before)" if result.files_from_earlier else ""
    return (
        f"{result.target}: {size_text(result.total_bytes)} in {files}{earlier}, "
        f"{result.recipe}, {duration(result.seconds)}"
    )


def _dry_run(args: argparse.Namespace) -> int:
    from mlx_diffusion.convert.dry_run import dry_run

    report = dry_run(args.source, args.set, recipe=args.recipe, revision=args.revision)
    out_result(args.json, report.as_dict, report.table)
    return 0


def _verify(args: argparse.Namespace, result: "Result", answer: dict[str, Any]) -> bool:
    from mlx_diffusion.convert.hub import local_copy
    from mlx_diffusion.convert.verify import verify

    folder = local_copy(args.source, result.revision)
    with ProgressLine() as line:
        report = verify(
            folder, Path(result.target), report=lambda fraction, label: line.show(f"{fraction:4.0%} · {label}")
        )
    if not args.json:
        out(report.table())
    answer["verification"] = report.as_dict()
    return report.ok


def _upload(args: argparse.Namespace, result: "Result", answer: dict[str, Any]) -> None:
    from mlx_diffusion.convert.upload import upload

    err(f"uploading {result.target} to {args.upload_to}")
    upload(Path(result.target), args.upload_to)
    answer["uploaded_to"] = args.upload_to
