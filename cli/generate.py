"""`mlx-diffusion generate`: writes the answer to one prompt.

Knows the command line and the terminal, and nothing of how text is made.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from mlx_diffusion.cli.arguments import (
    REAL_MODEL,
    TOY_NOTICE,
    add_command,
    add_generation_options,
    add_model,
    add_revision,
    build_config,
    read_standard_input,
    read_tools,
)
from mlx_diffusion.cli.constraints import add_constraint, constraint_of
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.passing_line import PassingLine
from mlx_diffusion.cli.report import figures_line, news, report_fields
from mlx_diffusion.cli.streams import err, out, out_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlx_diffusion.events import Event, Finish, TokenLogprob

EPILOG = f"""\
examples:
  mlx-diffusion generate "Sort: fig oak ant"
  echo "Sort: fig oak ant" | mlx-diffusion generate --json
  mlx-diffusion generate --model {REAL_MODEL} --max-tokens 1024 "Why is the sky blue?"
  mlx-diffusion generate --json-schema person.json "As JSON: Bob is 12 and lives in Paris."
  mlx-diffusion generate --model ./my-checkpoint --seed 7 --max-denoising-steps 16 "Write a haiku."

Text goes to standard output, all else to standard error.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `generate` to the command's subcommands."""
    parser = add_command(
        commands,
        "generate",
        run,
        help="write the answer to one prompt",
        usage="[OPTION ...] PROMPT",
        description="Write the answer to one prompt.",
        epilog=EPILOG,
    )

    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help='what you say; "-" or nothing: standard input')
    add_model(parser)
    add_revision(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object: text, finish_reason, stats, model, seed")

    prompt = parser.add_argument_group("the prompt").add_mutually_exclusive_group()
    prompt.add_argument("--system", metavar="TEXT", help="a system message ahead of the prompt")
    prompt.add_argument("--raw", action="store_true", help="the prompt as it is, without the model's chat template")

    chat = parser.add_argument_group("the chat template")
    chat.add_argument("--think", action="store_true", help="let the model think before it answers, if it can")
    chat.add_argument("--tools", metavar="FILE", help="functions that it may call: a JSON list, as for OpenAI's API")

    add_constraint(parser, with_tools=True)
    add_generation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Generate and print; returns the exit code."""
    if args.raw and (args.think or args.tools is not None):
        args.usage_error("--think and --tools are for the chat template, which --raw leaves out; drop one of them")
    if args.logprobs is not None and not args.json:
        args.usage_error("--logprobs are in the JSON; add --json")
    prompt = _read_prompt(args)

    config = build_config(args)
    tools = None if args.tools is None else read_tools(args.tools)
    constraint = constraint_of(args, tools)

    from mlx_diffusion import stream_generate
    from mlx_diffusion.measure import beyond_demo
    from mlx_diffusion.opening import open_model

    if args.model == "demo":
        err(TOY_NOTICE, end="")
        if (doubt := beyond_demo(prompt)) is not None:
            say(doubt)
    model, tokenizer = open_model(args.model, say, args.revision)
    if not (args.raw or tokenizer.has_chat_template):
        args.usage_error(f"{args.model} has no chat template; add --raw to use the prompt as it is")
    turns = [{"role": "system", "content": args.system}] if args.system is not None else []
    messages = [*turns, {"role": "user", "content": prompt}]
    vocab_size = model.config.vocab_size
    asked = tokenizer.encode_prompt(prompt, vocab_size) if args.raw else messages

    thinks = args.think or None
    events = stream_generate(
        model, tokenizer, asked, tools=tools, enable_thinking=thinks, config=config, constraint=constraint
    )
    logprobs: list[TokenLogprob] = []
    steps = model.generation_defaults.resolve(config).most_steps
    text, finish = _print_stream(_noting(events, logprobs), steps, quiet=args.json)
    if args.json:
        seed = model.generation_defaults.resolve(config).seed
        out_json(report_fields(text, finish, args.model, seed, None if args.logprobs is None else logprobs))
    elif sys.stderr.isatty():
        err(figures_line(finish))
    return 0


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
    return read_standard_input(args)


def _noting(events: "Iterable[Event]", logprobs: "list[TokenLogprob]") -> "Iterator[Event]":
    """The events, whose tokens' likelihoods are added to a list."""
    from mlx_diffusion import Segment

    for event in events:
        if isinstance(event, Segment):
            logprobs += event.logprobs
        yield event


def _print_stream(events: "Iterable[Event]", steps: int, quiet: bool) -> "tuple[str, Finish]":
    """Print text as it becomes final and in between how far the work is, unless `quiet`; the whole text and the end."""
    from mlx_diffusion import Finish

    text = ""
    with PassingLine(wanted=not quiet) as line:
        line.show("reading the prompt")
        for event in events:
            text += event.text
            if event.text and not quiet:
                line.clear()
                out(event.text, end="")
                line.passed(event.text, sys.stdout)
            elif not event.text:
                line.show(news(event, steps))
            if isinstance(event, Finish):
                finish = event
    if not quiet and not text.endswith("\n"):
        out("")
    return text, finish
