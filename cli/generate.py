"""`mlx-diffusion generate`: one prompt in, its text out.

Knows the command line and the terminal, and nothing of how text is made.
"""

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from mlx_diffusion.options import MODES, NAMES, GenerationConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_diffusion.events import Event, Finish

REAL_MODEL = "mlx-community/diffusiongemma-26B-A4B-it-4bit"
TOY_NOTICE = f"""\
mlx-diffusion: "demo" is a toy of 1.7 million parameters; it knows small tasks on lists, numbers, dates, not the world.
mlx-diffusion: for the real model (an 18 GB download) add: --model {REAL_MODEL}
"""

EPILOG = f"""\
examples:
  mlx-diffusion generate "Sort: fig oak ant"
  echo "Sort: fig oak ant" | mlx-diffusion generate --json
  mlx-diffusion generate --model {REAL_MODEL} --max-tokens 1024 "Why is the sky blue?"
  mlx-diffusion generate --model ./my-checkpoint --seed 7 --max-denoising-steps 16 "Write a haiku."

Text goes to standard output, all else to standard error.
Exit codes: 0 done, 1 the work failed, 2 wrong usage.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `generate` to the command's subcommands."""
    parser = commands.add_parser(
        "generate",
        help="write the answer to one prompt",
        usage="mlx-diffusion generate [OPTION ...] PROMPT",
        description="Write the answer to one prompt.",
        epilog=EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=31, width=100),
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, usage_error=parser.error)

    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help='what you say; "-" or nothing: standard input')
    parser.add_argument(
        "--model", default="demo", metavar="M", help='a folder, a Hub id or "demo" (the default), a toy'
    )
    parser.add_argument("--json", action="store_true", help="one JSON object: text, finish_reason, stats, model, seed")

    prompt = parser.add_argument_group("the prompt").add_mutually_exclusive_group()
    prompt.add_argument("--system", metavar="TEXT", help="a system message ahead of the prompt")
    prompt.add_argument("--raw", action="store_true", help="the prompt as it is, without the model's chat template")

    text = parser.add_argument_group("the text (what is not given comes from the checkpoint)")
    text.add_argument("--max-tokens", type=int, metavar="N", help="the longest text, in tokens")
    text.add_argument("--seed", type=int, metavar="N", help="the same seed writes the same text (default: 0)")
    text.add_argument(
        "--eos-token-id", type=int, action="append", metavar="ID", help="a token that ends the text; may be repeated"
    )

    denoising = parser.add_argument_group("denoising (what is not given comes from the checkpoint)")
    denoising.add_argument("--mode", choices=MODES, help='"reference": the published sampler')
    denoising.add_argument("--max-denoising-steps", type=int, metavar="N", help="the most steps a canvas may take")
    denoising.add_argument(
        "--entropy-bound", type=float, metavar="NATS", help="what a step may accept: more is faster and less exact"
    )
    denoising.add_argument("--t-max", type=float, metavar="T", help="temperature at a canvas's first step")
    denoising.add_argument("--t-min", type=float, metavar="T", help="temperature towards its last step")
    denoising.add_argument(
        "--stability-threshold", type=int, metavar="K", help="a canvas is done once K + 1 steps in a row agree ..."
    )
    denoising.add_argument(
        "--confidence-threshold", type=float, metavar="NATS", help="... and its mean entropy is below this"
    )

    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--prefill-step-size", type=int, metavar="N", help="the most prompt tokens encoded at once (default: 2048)"
    )


def run(args: argparse.Namespace) -> int:
    """Generate and print; returns the exit code."""
    prompt = _read_prompt(args)

    config = build_config(args)

    from mlx_diffusion import load, stream_generate

    if args.model == "demo":
        print(TOY_NOTICE, end="", file=sys.stderr, flush=True)
    model, tokenizer = load(args.model)
    if not (args.raw or tokenizer.has_chat_template):
        args.usage_error(f"{args.model} has no chat template; add --raw to use the prompt as it is")
    turns = [{"role": "system", "content": args.system}] if args.system is not None else []
    messages = [*turns, {"role": "user", "content": prompt}]

    events = stream_generate(model, tokenizer, prompt if args.raw else messages, config=config)
    text, finish = _print_stream(events, quiet=args.json)
    if args.json:
        seed = model.generation_defaults.resolve(config).seed
        print(json.dumps(_report(text, finish, args.model, seed), ensure_ascii=False))
    elif sys.stderr.isatty():
        print(_summary(finish), file=sys.stderr)
    return 0


def build_config(args: argparse.Namespace) -> GenerationConfig:
    """The options of the command line that a generation has."""
    return GenerationConfig(**{name: getattr(args, name) for name in NAMES})


def _read_prompt(args: argparse.Namespace) -> str:
    """The prompt from the command line or, if it is absent or "-", from standard input."""
    prompt: str = _read_standard_input(args) if args.prompt in (None, "-") else args.prompt
    if not args.raw:
        prompt = prompt.strip()
    if not prompt:
        args.usage_error("the prompt is empty; write something for the model to answer")
    return prompt


def _read_standard_input(args: argparse.Namespace) -> str:
    if sys.stdin is None or (args.prompt is None and sys.stdin.isatty()):
        args.usage_error('no prompt; write one, as in: mlx-diffusion generate "Sort: fig oak ant"')
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        args.usage_error(f"standard input is not text ({error}); pass the prompt as UTF-8")
    return text


def _print_stream(events: "Iterable[Event]", quiet: bool) -> "tuple[str, Finish]":
    """Print text as it becomes final, unless `quiet`; returns the whole text and the end."""
    from mlx_diffusion import Finish

    text = ""
    for event in events:
        text += event.text
        if event.text and not quiet:
            print(event.text, end="", flush=True)
        if isinstance(event, Finish):
            finish = event
    if not quiet and not text.endswith("\n"):
        print(flush=True)
    return text, finish


def _report(text: str, finish: "Finish", model: str, seed: int) -> dict[str, Any]:
    return {
        "text": text,
        "finish_reason": finish.finish_reason,
        "stats": dataclasses.asdict(finish.stats),
        "model": model,
        "seed": seed,
    }


def _summary(finish: "Finish") -> str:
    """One line of figures for the terminal."""
    stats = finish.stats
    speed = stats.generated_tokens / stats.generation_seconds if stats.generation_seconds else 0.0
    return (
        f"[{finish.finish_reason}] {stats.generated_tokens} tokens in {stats.denoising_steps} steps, "
        f"{stats.blocks} blocks, {stats.generation_seconds:.1f} s ({speed:.0f} tokens/s) · "
        f"prompt {stats.prompt_tokens} tokens, {stats.prompt_seconds:.1f} s · "
        f"peak memory {stats.peak_memory_bytes / 1e9:.2f} GB"
    )
