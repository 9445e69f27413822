"""The part of `mlx-diffusion eval` that calibrates: the levers that hold on a checkpoint, found out and shown.

Knows the command line and the terminal, and nothing of how levers are tested.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.cli.streams import err, out_result
from mlx_diffusion.display import count_of, duration, left_text, levers_text, table
from mlx_diffusion.errors import OptionError

HEADER = ("lever", "tried", "prompts", "right %", "with it", "gained", "lost", "loss, 90 %", "positions", "verdict")


def run_calibration(args: argparse.Namespace) -> int:
    """Calibrate --model, or go on with the same calibration; returns the exit code."""
    from mlx_diffusion.measure import CalibrationPlan, calibrate

    wishes = {"suites": args.suite and args.suite.split(","), "most": args.count, "max_tokens": args.max_tokens}
    wishes["batch_size"] = args.batch_size
    plan = CalibrationPlan(seed=args.seed, **{name: wish for name, wish in wishes.items() if wish})
    if any(suite.endswith(".jsonl") for suite in plan.suites):
        raise OptionError("--calibrate draws prompts anew at need, which a FILE.jsonl cannot give; name suites")
    try:
        with ProgressLine() as line:
            found = calibrate(
                args.model,
                plan,
                workers=args.workers,
                estimate=lambda seconds: line.announce(
                    f"at most {duration(seconds)}; tests that are sure end earlier, and an interrupt loses nothing"
                ),
                report=lambda doing, left: line.show(f"{doing} · at most {left_text(left)}"),
                warn=say,
                revision=args.revision,
            )
    except KeyboardInterrupt:
        err("\nmlx-diffusion: what is measured stays; the same command goes on", end="")
        raise
    out_result(
        args.json,
        lambda: {**found.content, "file": str(found.file)},
        lambda: f"{speed_text(found.content)}\n\n{found.file}",
    )
    return 0


def speed_text(content: Mapping[str, Any]) -> str:
    """A calibration as text: its tests, and what each mode is given."""
    reference = content["reference"]
    share = reference["right"] / reference["prompts"]
    lines = [
        f"{content['model']}: {count_of(reference['prompts'], 'prompt')}, {share:.1%} right by the reference; "
        "each test is of the same prompts without and with",
        "",
        table(HEADER, [test_row(test) for test in content["tests"]]),
        "",
    ]
    lines += [f"{mode:9} {levers_text(levers)}" for mode, levers in content["modes"].items()]
    return "\n".join(lines)


def test_row(test: Mapping[str, Any]) -> list[str]:
    """A test as a row: losses in points, positions as a share of the reference's."""
    right, prompts = test["right"], test["prompts"]
    return [
        test["lever"],
        test["mode"] or "alone",
        str(prompts),
        *(f"{100 * count / prompts:.1f}" for count in right),
        str(test["gained"]),
        str(test["lost"]),
        f"{100 * test['low']:+.1f} to {100 * test['high']:+.1f}",
        f"{test['positions']:.2f}",
        test["verdict"],
    ]
