"""The command line of `mlx-diffusion chat`: a conversation in the terminal, or one message and its answer.

Puts the parts of the chat together, by the options and by what standard input and output are. Knows nothing of how
the parts work.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlx_diffusion.cli.arguments import (
    REAL_MODEL,
    TOY_NOTICE,
    add_command,
    add_generation_options,
    add_model,
    add_revision,
    build_config,
)
from mlx_diffusion.cli.chat.one_message import read_message
from mlx_diffusion.cli.constraints import add_constraint, constraint_of
from mlx_diffusion.cli.messages import say
from mlx_diffusion.cli.streams import err, has_all_characters, out_json
from mlx_diffusion.errors import DiffusionError
from mlx_diffusion.modes import CAUSAL
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.visible_text import is_unicode, visible

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from mlx_diffusion.cli.chat.conversation import Conversation
    from mlx_diffusion.cli.chat.prompt import Prompt
    from mlx_diffusion.cli.chat.session import Session
    from mlx_diffusion.cli.chat.speaker import Speaker
    from mlx_diffusion.cli.chat.views import AnswerView
    from mlx_diffusion.options import Settings

DESCRIPTION = """\
Talk with a model and watch its text come into focus.

The whole answer sharpens at once: what is settled stands plain, what is still
open is dim, the dimmer the less certain. Type /help inside for the rest.
"""

EPILOG = f"""\
examples:
  mlx-diffusion chat
  mlx-diffusion chat --model {REAL_MODEL} --think
  mlx-diffusion chat -m "Reverse: fig oak ant"
  mlx-diffusion chat --model {REAL_MODEL} -m "Summarise these notes." --file notes.txt
  git diff | mlx-diffusion chat --model {REAL_MODEL} -m "Review this." --file -
  mlx-diffusion chat --plain --system "Answer in one sentence."

A conversation is kept on disk as it goes, and offered again at the next start; --no-save keeps nothing.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `chat` to the command's subcommands."""
    parser = add_command(
        commands,
        "chat",
        run,
        help="talk with a model and watch its text come into focus",
        usage="[OPTION ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )

    add_model(parser)
    add_revision(parser)
    parser.add_argument("-m", "--message", metavar="TEXT", help="answer this and leave")
    parser.add_argument(
        "--file", action="append", metavar="FILE", help='with -m, put a text file below it, or standard input as "-"'
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message ahead of the conversation")
    parser.add_argument("--think", action="store_true", help="let the model think first; its thoughts become one line")
    parser.add_argument("--plain", action="store_true", help="no canvas: text once it is final, as into a pipe")
    parser.add_argument("--no-save", action="store_true", help="keep neither the conversation nor what was typed")
    parser.add_argument("--json", action="store_true", help="with -m, one JSON object: text, finish_reason, stats, ...")
    add_constraint(parser, with_tools=False)
    add_generation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Converse, or answer one message; returns the exit code."""
    config, constraint = build_config(args), constraint_of(args)
    if args.system is not None and not is_unicode(args.system):
        args.usage_error("--system is not valid Unicode text; pass it as UTF-8")
    message = read_message(args)
    if message is None and args.json:
        args.usage_error('--json is for one answer; add -m "..."')
    if message is None and not sys.stdout.isatty():
        args.usage_error('a conversation needs a terminal, and standard output is none; for one answer add -m "..."')

    from mlx_diffusion.cli.chat.terminal_state import no_echo

    with no_echo():
        return _run(args, config, constraint, message)


def _run(
    args: argparse.Namespace, config: GenerationConfig, constraint: Mapping[str, Any] | None, message: str | None
) -> int:
    from mlx_diffusion.cli.chat.conversation import Conversation
    from mlx_diffusion.cli.chat.speaker import load_speaker
    from mlx_diffusion.measure import beyond_demo
    from mlx_diffusion.structure.constraint import read_constraint

    if message is not None and args.model == "demo":
        err(TOY_NOTICE, end="")
        if (doubt := beyond_demo(message)) is not None:
            say(doubt)
    if constraint is not None:
        read_constraint(constraint)  # lest a conversation begin that has no answer
    speaker = load_speaker(args.model, args.revision, constraint)
    if not speaker.has_chat_template:
        args.usage_error(f"{args.model} has no chat template, so one cannot chat with it; use `mlx-diffusion generate`")
    speaker.settings(config)
    conversation = Conversation(speaker.name, args.system, args.think, config)
    if message is not None:
        return _answer_once(args, speaker, conversation, message)
    _converse(args, speaker, conversation)
    return 0


def _answer_once(args: argparse.Namespace, speaker: "Speaker", conversation: "Conversation", message: str) -> int:
    from rich.console import Console

    from mlx_diffusion.channels import Channels
    from mlx_diffusion.cli.chat.following import Interrupt, follow
    from mlx_diffusion.cli.chat.views import SilentView
    from mlx_diffusion.cli.report import figures_line, report_fields

    settings = speaker.settings(conversation.settings)
    conversation.ask(message)
    prompt = speaker.encode(conversation.prompt(), conversation.think)
    channels = Channels(speaker.markers, lambda: speaker.decoding(settings), prompt)
    with Interrupt() as interrupt:
        events = speaker.answer(prompt, conversation.settings)
        console = Console(highlight=False, markup=False, emoji=False)
        view = SilentView(sys.stdout) if args.json else _make_view(args, console, speaker, settings)
        outcome = follow(events, channels, view, interrupt, keep=lambda answer: None)
    if outcome.finish is None:
        raise KeyboardInterrupt
    if args.json:
        out_json(report_fields(outcome.answer, outcome.finish, args.model, settings.seed))
    elif sys.stderr.isatty():
        err(figures_line(outcome.finish))
    return 0


def _converse(args: argparse.Namespace, speaker: "Speaker", conversation: "Conversation") -> None:
    from rich.console import Console

    from mlx_diffusion.cli.chat.archive import Archive, make_private
    from mlx_diffusion.cli.chat.prompt import Prompt
    from mlx_diffusion.cli.chat.session import Session
    from mlx_diffusion.cli.chat.slash_actions import offer_last
    from mlx_diffusion.cli.chat.welcome import welcome
    from mlx_diffusion.state import state_folder

    console = Console(highlight=False, markup=False, emoji=False)
    session = Session(
        speaker, conversation, console, lambda settings: _make_view(args, console, speaker, settings), archive=None
    )
    console.print(visible(welcome(args.model)))
    history: Path | None = None
    if not args.no_save:
        try:
            folder = state_folder(os.environ)
            make_private(folder)
            session.archive = Archive(folder)
            history = folder / "history"
            offer_last(session)
        except DiffusionError as error:
            session.complain(error)
    console.print()
    converse(session, Prompt(session, history))


def converse(session: "Session", prompt: "Prompt") -> None:
    """Read and answer messages until the user leaves."""
    from mlx_diffusion.cli.chat.slash_actions import Leave
    from mlx_diffusion.cli.chat.slash_commands import hint_at_commands, run_command

    interrupted = False
    while True:
        try:
            line = prompt.read()
        except EOFError:
            return
        except KeyboardInterrupt:
            if interrupted:
                return
            interrupted = True
            session.tell("Ctrl-C once more leaves")
            continue
        interrupted = False
        try:
            hint = hint_at_commands(line)
            if line.startswith("/"):
                interrupted = run_command(session, line)
            elif hint is not None:
                session.tell(hint)
            elif line.strip():
                interrupted = session.say(line.strip())
        except (Leave, KeyboardInterrupt):
            return
        except DiffusionError as error:
            session.complain(error)


def _make_view(args: argparse.Namespace, console: "Console", speaker: "Speaker", settings: "Settings") -> "AnswerView":
    """The canvas in a terminal that can draw it, else plain text."""
    from mlx_diffusion.cli.chat.canvas import CanvasText
    from mlx_diffusion.cli.chat.palette import palette_for
    from mlx_diffusion.cli.chat.stage import Stage
    from mlx_diffusion.cli.chat.views import LiveView, PlainView

    if args.plain or not sys.stdout.isatty() or console.is_dumb_terminal or not has_all_characters(sys.stdout):
        return PlainView(sys.stdout, settings.most_steps, wanted=True)
    return LiveView(
        console,
        Stage(console.file),
        CanvasText(
            speaker.decode,
            speaker.markers,
            stops=settings.eos_token_id,
            hidden=speaker.hidden,
            verified=settings.mode in CAUSAL,
        ),
        palette_for(console.color_system, os.environ),
        steps=settings.most_steps,
        memory_bytes=speaker.memory_bytes,
    )
