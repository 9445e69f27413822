"""The part of `mlx-diffusion bench` that measures a server: its options, and what is printed.

Knows the command line, and nothing of how a server is asked.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mlx_diffusion.cli.bench.numbers import size, sizes
from mlx_diffusion.cli.progress import ProgressLine
from mlx_diffusion.display import count_of, size_text
from mlx_diffusion.modes import MODES

if TYPE_CHECKING:
    from mlx_diffusion.measure import ServedLoad, TitledTable

NOT_SERVED = ("predict", "synthetic", "plot", "context", "canvas_length", "recipe", "layers")
MET = ("", "clients", "lost", "all done, s", "first text, s", "slowest, s", "tokens/s", "slowest client",
       "slowest/median")  # fmt: skip
COST = ("", "clients", "right", "tokens", "steps", "CPU s", "ms/step", "ms/token", "memory")


def add_serving(parser: argparse.ArgumentParser) -> None:
    """Add the options of a served measurement."""
    group = parser.add_argument_group("a server, measured by clients that ask at once (see docs/serving.md)")
    group.add_argument(
        "--serve",
        action="store_true",
        help="start `mlx-diffusion serve` on --model, with the first --mode, and ask it for the first --output-tokens; "
        "with --against mlx-vlm its server, too, one after the other",
    )
    group.add_argument(
        "--clients", type=sizes, default=(1, 4, 16), metavar="N,...", help="clients at once (default: 1,4,16)"
    )
    group.add_argument("--requests", type=size, default=4, metavar="N", help="requests of each client (default: 4)")


def check_serving(args: argparse.Namespace) -> None:
    """Wrong usage where options of a served measurement and of another are mixed."""
    for name in NOT_SERVED if args.serve else ():
        if getattr(args, name):
            args.usage_error(f"--{name.replace('_', '-')} is not for --serve; leave it out")


def served_loads(args: argparse.Namespace, line: ProgressLine) -> dict[str, list["ServedLoad"]]:
    """What clients met, by server. Raises CheckpointError and EvaluationError."""
    from mlx_diffusion.checkpoint.folder import Checkpoint, find_folder
    from mlx_diffusion.measure import check_peer_installed, check_prompts, own_server, peer_server
    from mlx_diffusion.serving.server import check_packages

    check_packages()
    if args.against:
        check_peer_installed()
    checkpoint = Checkpoint.open(find_folder(args.model, args.revision))
    mode = (args.mode or MODES)[0]
    servers = [own_server(checkpoint.folder, mode, max(args.clients))]
    servers += [peer_server(checkpoint.folder)] if args.against else []
    wishes: dict[str, Any] = {} if args.steps is None else {"max_denoising_steps": args.steps}
    with ExitStack() as running:
        started = [running.enter_context(server) for server in servers]
        found: dict[str, list[ServedLoad]] = {server.name: [] for server in started}
        for clients in args.clients:
            for server in started:  # in turn, since a machine has better and worse minutes
                line.announce(f"{server.name}: {count_of(clients, 'client')}")
                load = server.measure(clients, args.requests, args.output_tokens[0], **wishes)
                found[server.name].append(load)
        if args.against:
            check_prompts(started[-1].prompts(), checkpoint, max(args.clients), args.requests)
    return found


def served_sections(found: dict[str, list["ServedLoad"]]) -> Iterator["TitledTable"]:
    """The results as two tables: what the clients met, and what it has cost."""
    from mlx_diffusion.measure import TitledTable

    loads = [(name, load) for name, own in found.items() for load in own]
    met = [
        (name, str(load.clients), f"{load.lost} of {load.requests}", f"{load.seconds:.2f}",
         f"{load.first_text_seconds:.2f}", f"{load.slowest_first_text_seconds:.2f}", f"{load.tokens_per_second:.0f}",
         f"{load.slowest_tokens_per_second:.0f}", f"{load.unfairness:.2f}")
        for name, load in loads
    ]  # fmt: skip
    cost = [
        (name, str(load.clients), f"{load.right} of {load.requests}", f"{load.tokens}", f"{load.steps}",
         f"{load.cpu_seconds:.2f}", f"{1000 * load.seconds / max(load.steps, 1):.1f}",
         f"{1000 * load.seconds / max(load.tokens, 1):.1f}",
         size_text(load.memory_bytes))
        for name, load in loads
    ]  # fmt: skip
    yield TitledTable("A server, asked by clients at once", MET, met)
    yield TitledTable("What that has cost", COST, cost)
