"""`mlx-diffusion serve`: answers requests over HTTP, as OpenAI's, Ollama's and Anthropic's clients send them.

Knows the command line, and nothing of HTTP or of how text is made.
"""

import argparse
import os
from dataclasses import fields
from pathlib import Path

from mlx_diffusion.cli.arguments import REAL_MODEL, add_command, add_model, add_revision
from mlx_diffusion.cli.messages import say
from mlx_diffusion.errors import OptionError
from mlx_diffusion.modes import MODES
from mlx_diffusion.serving.limits import Limits

KEY = "MLX_DIFFUSION_API_KEY"  # of the environment
BOUNDS = {
    "max_requests": "answers that are written at once; further ones wait",
    "max_waiting": "answers that wait; further ones are refused with 503",
    "max_tokens": "the most tokens that a request may ask for",
    "max_bytes": "the largest body of a request",
    "answer_seconds": "the longest time to an answer's end, its waiting included",
    "grace_seconds": "how long requests may go on once the server is asked to end",
}
EPILOG = f"""\
examples:
  mlx-diffusion serve
  mlx-diffusion serve --model {REAL_MODEL} --mode speculative
  mlx-diffusion serve --host 0.0.0.0 --api-key KEY

The key may also stand in the environment, as {KEY}.
Exit codes: 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `serve` to the command's subcommands."""
    parser = add_command(
        commands,
        "serve",
        run,
        help="answer requests over HTTP, as OpenAI's, Ollama's and Anthropic's clients send them",
        usage="[OPTION ...]",
        description="Answer requests over HTTP, as OpenAI's, Ollama's and Anthropic's clients send them.",
        epilog=EPILOG,
    )
    add_model(parser)
    add_revision(parser)
    parser.add_argument("--mode", choices=MODES, help="how to write where a request does not say it")
    parser.add_argument(
        "--prefix-bytes", type=int, default=4_000_000_000, metavar="N",
        help="memory for encoded prompts, so that what begins alike is encoded once; 0: none",
    )  # fmt: skip
    parser.add_argument(
        "--prefix-store", type=Path, metavar="DIR", help="keep encoded prompts in this folder, for the next start too"
    )
    place = parser.add_argument_group("where, and for whom")
    place.add_argument("--host", default="127.0.0.1", metavar="H", help="the address (default: 127.0.0.1)")
    place.add_argument("--port", type=int, default=8080, metavar="N", help="the port (default: 8080; 0: a free one)")
    place.add_argument("--api-key", metavar="KEY", help="answer only requests with this key")
    place.add_argument("--open-to-all", action="store_true", help="need no key at an address that others reach")
    place.add_argument(
        "--allow-host", action="append", metavar="NAME",
        help="a name by which the server may be called, beside its addresses; may be repeated",
    )  # fmt: skip
    bounds = parser.add_argument_group("bounds")
    for field in fields(Limits):
        if field.name in BOUNDS:
            option, said = f"--{field.name.replace('_', '-')}", BOUNDS[field.name]
            said = f"{said} (default: {field.default})"
            bounds.add_argument(option, type=int, default=field.default, metavar="N", help=said)


def run(args: argparse.Namespace) -> int:
    """Serve until the process is asked to end; returns the exit code."""
    from mlx_diffusion.serving.server import Address, bind, build_server, check_packages

    check_packages()
    limits = Limits(**{name: getattr(args, name) for name in BOUNDS})
    if args.prefix_bytes < 0:
        raise OptionError(f"prefix_bytes is {args.prefix_bytes}; it must be 0 or more")
    key = os.environ.get(KEY) if args.api_key is None else args.api_key
    address = Address(args.host, args.port, key, tuple(args.allow_host or ()), args.open_to_all)

    from mlx_diffusion.opening import open_model
    from mlx_diffusion.options import GenerationConfig
    from mlx_diffusion.serving.prefix_folder import PrefixFolder

    if args.prefix_store is not None and not args.prefix_bytes:
        raise OptionError("--prefix-store needs memory for prefixes; leave --prefix-bytes 0 out")
    folder = None if args.prefix_store is None else PrefixFolder(args.prefix_store)
    with bind(address) as place:
        model, tokenizer = open_model(args.model, say, args.revision)
        name = Path(args.model).resolve().name if Path(args.model).is_dir() else args.model
        server = build_server(
            model,
            tokenizer,
            name,
            address,
            _log,
            defaults=GenerationConfig(mode=args.mode),
            limits=limits,
            prefix_bytes=args.prefix_bytes,
            prefix_folder=folder,
        )
        host, port = place.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        say(f"{name} answers at http://{host}:{port}/v1")
        server.run(sockets=[place])
    return 0


def _log(text: str) -> None:
    """Print what the server has to say, each line by itself."""
    for line in text.splitlines():
        say(line)
