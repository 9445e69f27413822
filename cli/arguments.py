"""Arguments that several subcommands have: the model, a generation's options, standard input.

Knows nothing of what is done with them.
"""

import argparse
import re
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.streams import err
from mlx_diffusion.errors import PromptError
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.messages import check_tools
from mlx_diffusion.modes import MODES
from mlx_diffusion.options import NAMES, GenerationConfig
from mlx_diffusion.regular_files import read_regular
from mlx_diffusion.visible_text import notice

MOST_TOOLS = 4_000_000  # bytes of a file
LONGEST_PROMPT = 16_000_000  # characters of standard input; a context of 262,144 tokens has about a million
PATIENCE = 1.0  # seconds without a word to who may be waited for
REAL_MODEL = "mlx-community/diffusiongemma-26B-A4B-it-4bit"
TOY_NOTICE = f"""\
mlx-diffusion: "demo" is a toy of 1.7 million parameters; it knows small tasks on lists, numbers, dates, not the world.
mlx-diffusion: for the real model (an 18 GB download) add: --model {REAL_MODEL}
"""


def ready(seconds: float) -> bool:
    """Whether standard input has something to read, or its end, within that time."""
    try:
        return bool(select.select([sys.stdin], [], [], seconds)[0])
    except (OSError, TypeError, ValueError):  # not one of the system's files
        return True


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line behind the usage, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        unquoted = re.match("unrecognized arguments: [^-]", message)
        hint = '; a text of several words needs quotes, as in "Sort: fig oak ant"' if unquoted else ""
        err(self.format_usage() + f"{self.prog}: error: {notice(message + hint)}")
        sys.exit(2)


class HelpFormat(Protocol):
    """Makes the formatter of a subcommand's help."""

    def __call__(self, *, prog: str) -> argparse.HelpFormatter: ...


def help_format(prog: str) -> argparse.HelpFormatter:
    """A formatter of help that leaves examples as they are and has space for the longest option."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=31, width=100)


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
    usage: str,
    description: str,
    epilog: str,
    formatter: HelpFormat = help_format,
) -> argparse.ArgumentParser:
    """Add a subcommand, whose `run` is given the parsed arguments; no option may be abbreviated."""
    parser = commands.add_parser(
        name,
        help=help,
        usage=f"mlx-diffusion {name} {usage}",
        description=description,
        epilog=epilog,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, usage_error=parser.error)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="demo", metavar="M", help='a folder, a Hub id or "demo" (the default), a toy'
    )


def add_revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", metavar="REV", help="a branch, tag or commit, if the model is a Hub id")


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """One option for every field of `GenerationConfig`; `build_config` reads them."""
    text = parser.add_argument_group("the text (what is not given comes from the checkpoint)")
    text.add_argument("--max-tokens", type=int, metavar="N", help="the longest text, in tokens")
    text.add_argument("--seed", type=int, metavar="N", help="the same seed writes the same text (default: 0)")
    text.add_argument(
        "--eos-token-id", type=int, action="append", metavar="ID", help="a token that ends the text; may be repeated"
    )

    text.add_argument("--stop", action="append", metavar="TEXT", help="text that ends the answer; may be repeated")
    text.add_argument(
        "--mode",
        choices=MODES,
        help='"reference" (the default): canvases, by the published sampler; "balanced", "fast": with levers that hold '
        'on this checkpoint; "autoregressive": token by token; "speculative": the same tokens in fewer passes',
    )

    denoising = parser.add_argument_group(
        "denoising, in modes reference, balanced and fast (what is not given comes from the checkpoint)"
    )
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
    denoising.add_argument(
        "--canvas-length", type=int, metavar="N", help="positions of a canvas, at most the checkpoint's"
    )

    _add_levers(parser.add_argument_group("levers of denoising, all off in mode reference (1 or 0 turns one off)"))
    _add_choice_options(parser.add_argument_group("the choice of tokens, in modes autoregressive and speculative"))
    drafts = parser.add_argument_group("drafts, in mode speculative")
    drafts.add_argument(
        "--draft-width", type=int, metavar="N", help="positions of a draft (default: as has paid so far)"
    )
    drafts.add_argument("--draft-steps", type=int, metavar="N", help="denoising steps of a draft (default: 1)")

    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--prefill-step-size", type=int, metavar="N", help="the most prompt tokens encoded at once (default: 2048)"
    )


def _add_levers(levers: Any) -> None:
    levers.add_argument(
        "--early-end", type=float, metavar="P", help="a canvas is done once every token of its text is this probable"
    )
    levers.add_argument(
        "--lock-threshold", type=float, metavar="P", help="positions that stay as they are, so probable, may rest ..."
    )
    levers.add_argument("--refresh-every", type=int, metavar="N", help="... and are forwarded every N steps (4)")
    levers.add_argument(
        "--crop-threshold",
        type=float,
        metavar="P",
        help="what is behind a stop token so probable leaves the canvas",
    )
    levers.add_argument(
        "--first-canvas", type=int, metavar="N", help="positions of a first guess, begun anew if the text is longer"
    )


def _add_choice_options(choice: Any) -> None:
    choice.add_argument("--temperature", type=float, metavar="T", help="0 (the default): the most likely token")
    choice.add_argument("--top-p", type=float, metavar="P", help="only the most likely tokens, of this probability")
    choice.add_argument("--top-k", type=int, metavar="K", help="only the K most likely tokens")
    choice.add_argument("--min-p", type=float, metavar="P", help="only tokens this probable beside the likeliest")
    choice.add_argument("--repetition-penalty", type=float, metavar="F", help="divides the logits of recent tokens ...")
    choice.add_argument("--repetition-context-size", type=int, metavar="N", help="... the last N (default: 20)")
    choice.add_argument(
        "--logit-bias", type=_token_bias, action="append", metavar="ID=B", help="adds B to a token's logit; repeatable"
    )
    choice.add_argument("--logprobs", type=int, metavar="N", help="with --json: likelihoods, of N tokens each time")


def _token_bias(argument: str) -> tuple[int, float]:
    """`106=-5` as a token id and what is added to its logit."""
    token, _, bias = argument.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{argument!r} is no ID=NUMBER, as in 106=-5") from None


def build_config(args: argparse.Namespace) -> GenerationConfig:
    """The generation options that were given on the command line."""
    return GenerationConfig(**{name: getattr(args, name) for name in NAMES})


def read_tools(path: str) -> list[dict[str, Any]]:
    """The declarations of tools in a JSON file. Raises PromptError."""
    try:
        tools = bounded_json(read_regular(Path(path), MOST_TOOLS))
    except OSError as error:
        raise PromptError(f"{path} cannot be read ({error.strerror}); name a JSON file of tools") from error
    except ValueError as error:
        raise PromptError(f"{path} is not JSON ({error}); write a list of tools") from error
    if isinstance(tools, dict):
        tools = tools.get("tools", [tools])
    if not isinstance(tools, list):
        raise PromptError(f'{path} holds no list of tools; write [{{"type": "function", "function": {{…}}}}]')
    try:
        checked = check_tools(tools)
    except PromptError as error:
        raise PromptError(f"{path}: {error}") from None
    assert checked is not None
    return checked


def read_standard_input(args: argparse.Namespace) -> str:
    """All of standard input, which is waited for; if it is no text, or longer than any context, that is wrong usage."""
    if not ready(PATIENCE):
        say("reading standard input until its end")
    try:
        text = sys.stdin.read(LONGEST_PROMPT + 1)
    except UnicodeDecodeError as error:
        args.usage_error(f"standard input is not text ({error}); pass the prompt as UTF-8")
        raise
    except OSError as error:
        raise PromptError(f"standard input cannot be read ({error.strerror}); pass the prompt as an argument") from None
    if len(text) > LONGEST_PROMPT:
        args.usage_error(f"standard input has more than {LONGEST_PROMPT:,} characters; pass less of it")
    return text
