"""The options that say what an answer must be: one at most, some from a file.

Knows nothing of how an answer is held to it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import OptionError
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.regular_files import read_regular

MOST_BYTES = 4_000_000  # of a file


def add_constraint(parser: argparse.ArgumentParser, with_tools: bool) -> None:
    """One group of options, of which one at most may be given; `constraint_of` reads them."""
    group = parser.add_argument_group("what the answer must be (one of these; never another text)")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--json-schema", metavar="FILE", help="JSON that keeps to the schema in a file")
    one.add_argument("--json-object", action="store_true", help="a JSON object")
    one.add_argument("--regex", metavar="PATTERN", help="what a regular expression matches as a whole")
    one.add_argument("--choice", action="append", metavar="TEXT", help="one of several texts; give each of them")
    one.add_argument("--grammar", metavar="FILE", help="a text of a grammar: Lark's notation, or GBNF")
    if with_tools:
        said = "auto, required or a name: calls of --tools with arguments as declared"
        one.add_argument("--tool-choice", metavar="CHOICE", help=said)


def constraint_of(args: argparse.Namespace, tools: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any] | None:
    """The constraint that was given on the command line, of tools where they may be called. Raises OptionError."""
    if getattr(args, "tool_choice", None) is not None:
        if tools is None:
            raise OptionError("--tool-choice is among tools; declare them with --tools")
        return {"tools": tools, "choice": args.tool_choice}
    if args.json_schema is not None:
        try:
            return {"json_schema": bounded_json(_read(args.json_schema))}
        except ValueError as error:
            raise OptionError(f"{args.json_schema} is not JSON ({error}); write a JSON schema") from None
    if args.grammar is not None:
        try:
            return {"grammar": _read(args.grammar).decode("utf-8")}
        except UnicodeDecodeError as error:
            raise OptionError(f"{args.grammar} is not text ({error}); write a grammar as UTF-8") from None
    given = {"regex": args.regex, "choice": args.choice, "json_object": args.json_object or None}
    return next(({kind: value} for kind, value in given.items() if value is not None), None)


def _read(path: str) -> bytes:
    try:
        return read_regular(Path(path), MOST_BYTES)
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror}); name a file") from error
