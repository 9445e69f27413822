"""The suites of `mlx-diffusion eval` whose texts are known in part: infill, forms, decisions.

Knows the command line, and nothing of how they are measured.
"""

import argparse

from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.cli.streams import out_result
from mlx_diffusion.errors import EvaluationError, OptionError

SUITES = ("infill", "forms", "decisions", "worded-infill", "worded-forms", "worded-decisions")
OTHERS = ("mode", "sweep", "recipes", "workers", "batch_size", "max_tokens", "output", "answers", "plot")


def is_known(suite: str) -> bool:
    """Whether a suite is one of these, or of gaps or schemas in a file."""
    return suite.partition(":")[0] in SUITES or suite.startswith("schema:")


def run_known(args: argparse.Namespace, suites: list[str]) -> int:
    """Measure and print; returns the exit code."""
    from mlx_diffusion.measure import measure_known
    from mlx_diffusion.opening import open_model
    from mlx_diffusion.whole_files import write_whole

    for name in OTHERS:
        if getattr(args, name):
            raise OptionError(f"--{name.replace('_', '-')} is of no use for suite {suites[0]}; leave it out")
    model = open_model(args.model, say, args.revision)
    with ProgressLine() as line:
        report = measure_known(args.model, model, suites, args.count, args.seed, line.show)
    if args.markdown:
        write_whole(args.markdown, (report.text(markdown=True) + "\n").encode(), error=EvaluationError)
    out_result(args.json, report.as_dict, report.text)
    return 0
