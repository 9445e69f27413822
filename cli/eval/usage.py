"""The checks of the command line of `mlx-diffusion eval`: options that do not go together."""

import argparse

from mlx_diffusion.cli.eval.known import is_known

NOT_CALIBRATED = ("mode", "sweep", "recipes", "output", "answers", "plot", "markdown", "show", "compare")


def check_usage(args: argparse.Namespace) -> None:
    """End with wrong usage where options do not go together."""
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
    known = any(is_known(suite.strip()) for suite in (args.suite or "").split(","))
    if args.markdown and not (args.output or args.show or known):
        args.usage_error("--markdown names the JSON file that it is made from; add --output FILE")
    if args.answers and not args.output:
        args.usage_error("--answers are kept in the output; add --output FILE")
    if args.calibrate:
        unlike = [name for name in NOT_CALIBRATED if getattr(args, name)]
        if unlike:
            args.usage_error(f"--calibrate has no --{unlike[0]}; leave out one")
