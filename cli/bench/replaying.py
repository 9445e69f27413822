"""The part of `mlx-diffusion bench` that takes recorded passes again on random weights: what it asks for.

Knows the command line, and nothing of how passes are taken.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.modes import CAUSAL

if TYPE_CHECKING:
    from mlx_diffusion.fit.machine import Machine
    from mlx_diffusion.measure import Replayed

NOT_REPLAYED = ("against", "serve", "steps", "plot", "context", "prefill_step_size")


def check_replay(args: argparse.Namespace) -> None:
    """Wrong usage where options have no meaning for passes that are taken again."""
    for name in NOT_REPLAYED:
        if getattr(args, name):
            args.usage_error(f"--{name.replace('_', '-')} is not for recorded passes; leave it or --record out")
    if set(args.mode or ()) & set(CAUSAL):
        args.usage_error("passes of denoising alone are taken again; leave out other modes")


def replayed(args: argparse.Namespace, machine: "Machine", line: ProgressLine) -> tuple[str, Sequence["Replayed"]]:
    """The name of the model with random weights, and what was measured on it. Raises CheckpointError, OptionError."""
    from mlx_diffusion.checkpoint.config import ModelConfig
    from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, recipe_named
    from mlx_diffusion.cli.bench.opening import opened, synthetic_config
    from mlx_diffusion.cli.bench.predicting import recorded_runs
    from mlx_diffusion.fit.prediction import ModelShape
    from mlx_diffusion.measure import replay, widened

    runs = recorded_runs(args, line)
    canvas = max(one.positions for run in runs.values() for one in run.schedule.writing)
    whole = ModelConfig.from_dict(synthetic_config(args.synthetic))
    with opened(args, machine, line) as benchmark:
        factor = benchmark.config.canvas_length / canvas
        found = replay(
            benchmark.model,
            {mode: widened(run.schedule, factor) for mode, run in runs.items()},
            ModelShape.of_recipe(whole, recipe_named(DEFAULT_RECIPE)),
            seed=args.seed,
            repeats=args.repeat,
            warm_up=not args.no_warm_up,
            report=line.announce,
        )
    return benchmark.name, found
