"""The part of `mlx-diffusion bench` that predicts: its options, and the question that they ask.

Knows the command line, and nothing of how anything is predicted.
"""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, recipe_named
from mlx_diffusion.cli.bench import PUBLISHED
from mlx_diffusion.cli.bench.numbers import share
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import OptionError
from mlx_diffusion.modes import MODES

if TYPE_CHECKING:
    from mlx_diffusion.measure import Question, RecordedRun
    from mlx_diffusion.modes import Mode

NOT_PREDICTED = ("layers", "against", "plot", "context")


def add_prediction(parser: argparse.ArgumentParser) -> None:
    """Add the options of a prediction."""
    group = parser.add_argument_group("a prediction, instead of a measurement (see docs/macs.md)")
    group.add_argument(
        "--predict",
        action="store_true",
        help="predict the published model, or that of --synthetic, in --recipe on every chip of Apple's, with the "
        "longest of the prompts and texts and --steps denoising steps a canvas (default: as reported)",
    )
    group.add_argument(
        "--agreement", type=share, metavar="P", help="the share of drafted tokens that agree (default: 0.87)"
    )
    group.add_argument(
        "--record",
        metavar="PROMPT",
        help="let --model answer PROMPT here, in every --mode, and predict the passes that it took, too; with "
        "--synthetic in place of --predict, take those passes again on the random weights, widened to their canvas",
    )


def check_prediction(args: argparse.Namespace) -> None:
    """Wrong usage where options of a prediction and of a measurement are mixed."""
    if not args.predict:
        if args.agreement is not None:
            args.usage_error("--agreement is for a prediction; add --predict")
        if args.record is not None and args.synthetic is None:
            args.usage_error("--record needs something to do with the passes; add --predict or --synthetic CONFIG")
        return
    for name in NOT_PREDICTED:
        if getattr(args, name):
            args.usage_error(f"--{name} is for a measurement; leave it or --predict out")
    if args.record is None and (args.model != "demo" or args.mode):
        args.usage_error("--predict runs no model; add --record PROMPT to take the passes of --model's answer")


def asked(args: argparse.Namespace, line: ProgressLine) -> "Question":
    """What the command line asks to be predicted. Raises CheckpointError and OptionError."""
    from mlx_diffusion.checkpoint.config import ModelConfig
    from mlx_diffusion.cli.bench.opening import synthetic_config
    from mlx_diffusion.fit.draft_width import AGREEMENT
    from mlx_diffusion.fit.footprint import config_tensors, sizes_of
    from mlx_diffusion.fit.schedules import REPORTED_STEPS
    from mlx_diffusion.measure import Question

    name = args.synthetic or PUBLISHED
    raw, recipe = synthetic_config(name), recipe_named(args.recipe or DEFAULT_RECIPE)
    config = ModelConfig.from_dict(raw)
    prompt, tokens = max(args.prompt_tokens), max(args.output_tokens)
    if prompt + tokens > config.max_position_embeddings:
        raise OptionError(
            f"{prompt} + {count_of(tokens, 'token')} are more than the model's context of "
            f"{config.max_position_embeddings}; shorten the prompt or the text"
        )
    weights = sizes_of(config, config_tensors(raw, config), recipe).memory.weight_bytes
    return Question(
        name=f"{name} ({recipe.name})",
        config=replace(config, canvas_length=args.canvas_length or config.canvas_length),
        recipe=recipe,
        weight_bytes=weights,
        prompt=prompt,
        tokens=tokens,
        steps=args.steps or REPORTED_STEPS,
        agreement=AGREEMENT if args.agreement is None else args.agreement,
        recorded={} if args.record is None else recorded_runs(args, line),
    )


def recorded_runs(args: argparse.Namespace, line: ProgressLine) -> "dict[Mode, RecordedRun]":
    """The runs of --model on the prompt of --record, by mode."""
    from mlx_diffusion.cli.messages import say
    from mlx_diffusion.measure import record_run
    from mlx_diffusion.opening import open_model
    from mlx_diffusion.options import GenerationConfig

    model, tokenizer = open_model(args.model, say, args.revision)
    messages = [{"role": "user", "content": args.record}]
    prompt = messages if tokenizer.has_chat_template else args.record
    runs: dict[Mode, RecordedRun] = {}
    for mode in args.mode or MODES[:1]:
        line.announce(f"{args.model} answers, {mode}")
        wishes = GenerationConfig(max_tokens=max(args.output_tokens), seed=args.seed, mode=mode)
        runs[mode] = record_run(model, tokenizer, prompt, wishes)
    return runs
