"""`mlx-diffusion doctor`: says what this machine has, can run and has downloaded, and checks its kernels.

Knows the command line and the terminal, and nothing of how memory is counted.
"""

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING

from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE
from mlx_diffusion.cli.arguments import add_command
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.cli.streams import err, out, out_json, out_result

if TYPE_CHECKING:
    from mlx_diffusion.fit.diagnosis import Diagnosis
    from mlx_diffusion.measure import DeviceCheck

LINE = 120  # columns

EPILOG = """\
Put its output into a bug report. --check takes about a minute, best with nothing else at work; what it keeps stands in
one file of the program's state folder, which it names, and later runs go by it. Exit codes: 0 done, 1 the work failed.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor` to the command's subcommands."""
    parser = add_command(
        commands,
        "doctor",
        run,
        help="say what this machine has and can run",
        usage="[--json] [--check [--keep] [--recipe R]]",
        description="Say what this machine has, which recipe it runs with how long a context, and what is downloaded.",
        epilog=EPILOG,
        formatter=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--check", action="store_true", help="try every kernel of the model here: errors, rates, settings"
    )
    parser.add_argument("--keep", action="store_true", help="with --check: keep the settings that are best, unasked")
    parser.add_argument("--recipe", metavar="R", help=f"with --check: the formats to try (default: {DEFAULT_RECIPE})")


def run(args: argparse.Namespace) -> int:
    """Look at the machine and print; returns the exit code."""
    from mlx_diffusion.fit.diagnosis import diagnose

    if not args.check and (args.keep or args.recipe is not None):
        args.usage_error(f"{'--keep' if args.keep else '--recipe'} goes with --check")
    diagnosis = diagnose()
    if not args.check:
        out_result(args.json, diagnosis.as_dict, lambda: diagnosis_text(diagnosis))
        return 0
    check = _checked(DEFAULT_RECIPE if args.recipe is None else args.recipe)
    if args.json:
        file = _kept(check) if args.keep else None
        out_json(diagnosis.as_dict() | {"check": check.as_dict() | {"kept_in": file}})
        return 0
    from mlx_diffusion.measure import check_text

    out(f"{diagnosis_text(diagnosis)}\n\n{check_text(check)}\n")
    if args.keep or _is_wanted():
        out(f"Kept in {_kept(check)}; remove the file to go back.")
    else:
        out("Not kept. With --keep the same command keeps these settings for later runs.")
    return 0


def _checked(recipe: str) -> "DeviceCheck":
    from mlx_diffusion.measure import check_device

    with ProgressLine() as line:
        return check_device(recipe, report=lambda share, label: line.show(f"{share:4.0%} · {label}"))


def _kept(check: "DeviceCheck") -> str:
    from mlx_diffusion.tuning import keep

    return str(keep(check.kept))


def _is_wanted() -> bool:
    """Ask the user, where there is one to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    err("Keep these settings for later runs? [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def diagnosis_text(diagnosis: "Diagnosis") -> str:
    """The diagnosis as text."""
    from mlx_diffusion.display import count_of, levers_text, size_text, table
    from mlx_diffusion.fit.footprint import SHORT_STEP, context_text

    def size(nbytes: int | None) -> str:
        return "unknown" if nbytes is None else size_text(nbytes)

    machine = diagnosis.machine
    cores = count_of(machine.cpus, "core") if machine.cpus else "an unknown number of cores"
    share = f", of which the GPU may use {size(machine.gpu_bytes)}" if machine.device == "gpu" else ""
    packages = [f"{name} {version or 'missing'}" for name, version in machine.packages.items()]
    lines = [
        f"chip      {machine.chip or 'unknown'}, {cores}",
        f"memory    {size(machine.memory_bytes)}{share}",
        f"system    {machine.system}, Python {machine.python}",
        f"packages  {', '.join(packages)}",
        f"MLX on    {machine.device.upper()}",
        f"disk      {size(machine.disk_free_bytes)} free here",
        f"cache     {diagnosis.cache_folder}{'' if diagnosis.cached else ', without a checkpoint of DiffusionGemma'}",
    ]
    for cached in diagnosis.cached:
        whole = "" if cached.whole else ", not whole"
        lines.append(f"  {cached.repo_id} {cached.revision[:8]}, {size(cached.nbytes)}, {cached.kept_as}{whole}")
    for known in diagnosis.levers:
        modes = "; ".join(f"{mode} {levers_text(levers)}" for mode, levers in known.modes.items())
        lines.append(f"levers    {known.model}: {modes}{'' if known.reason is None else f' ({known.reason})'}")
    usable = size(machine.memory.usable_bytes)
    lines += [
        "",
        f"{diagnosis.model} here, in {usable} for weights, cache and arrays:",
        "",
        table(
            ["recipe", "on disk", "weights", "context", f"with --prefill-step-size {SHORT_STEP}"],
            [
                [
                    found.recipe,
                    size(found.total_bytes),
                    size(found.weight_bytes),
                    context_text(found.longest_context),
                    context_text(found.longest_context_short_steps),
                ]
                for found in diagnosis.recipes
            ],
        ),
        "",
    ]
    if diagnosis.recommended is None:
        lines.append("No recipe fits into this machine's memory with the usual settings.")
    else:
        command = f"mlx-diffusion convert {diagnosis.model} OUTPUT --recipe {diagnosis.recommended} --stream"
        lines += ["The one to take on this machine:", "", command]
    if diagnosis.advice is not None:
        lines += ["", *textwrap.wrap(diagnosis.advice.line, LINE)]
    return "\n".join(lines)
