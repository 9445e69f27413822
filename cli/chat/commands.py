"""What one can type besides messages: the table of commands, and what each does to a session.

Knows nothing of keys, completion menus or how an answer is drawn.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_diffusion.cli.chat import archive
from mlx_diffusion.cli.chat.cells import one_line, printable
from mlx_diffusion.cli.chat.conversation import ConversationError
from mlx_diffusion.cli.chat.markup import show
from mlx_diffusion.cli.chat.nearest import nearest
from mlx_diffusion.cli.chat.session import Session
from mlx_diffusion.cli.chat.settings import describe, key_named, suggestions, with_setting
from mlx_diffusion.cli.report import summary
from mlx_diffusion.errors import OptionError
from mlx_diffusion.options import MODES, NAMES

PATH = "PATH"
SWITCH = ("on", "off", "show")


class Leave(Exception):
    """The chat is to end."""


@dataclass(frozen=True)
class Command:
    """One line of the table; `run` returns whether Ctrl-C stopped what it did."""

    argument: str
    help: str
    run: Callable[[Session, str], bool | None]


def run_command(session: Session, line: str) -> bool:
    """Run a line that begins with a slash; returns whether Ctrl-C stopped it. Raises DiffusionError and Leave."""
    name, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise OptionError(
            f"unknown command {name!r}; the nearest is {nearest(name, COMMANDS)!r}; /help shows all "
            "(a message that begins with a slash needs a space before it)"
        )
    argument = argument.strip()
    if argument and not command.argument:
        raise OptionError(f"{name} takes nothing behind it, not {argument!r}")
    return bool(command.run(session, argument))


def completions(session: Session, line: str) -> list[str] | None:
    """What the last word of an unfinished line may become; None where it is a path."""
    name, space, rest = line.partition(" ")
    if not space:
        return [known for known in COMMANDS if known.startswith(name)]
    words = rest.split(" ")
    offered: list[str] = []
    if name in COMMANDS and PATH in COMMANDS[name].argument:
        return None
    if name == "/set" and len(words) == 1:
        offered = list(NAMES)
    elif name == "/set" and len(words) == 2 and words[0].replace("-", "_") in NAMES:
        offered = suggestions(key_named(words[0]), session.speaker.settings(session.conversation.settings))
    elif name == "/mode" and len(words) == 1:
        offered = list(MODES)
    elif name == "/think" and len(words) == 1:
        offered = list(SWITCH)
    return [word for word in offered if word.startswith(words[-1].replace("-", "_"))]


def _help(session: Session, argument: str) -> None:
    width = max(len(f"{name} {command.argument}") for name, command in COMMANDS.items())
    lines = [f"{f'{name} {command.argument}':<{width}}  {command.help}" for name, command in COMMANDS.items()]
    session.tell("\n".join([*lines, KEYS]))


def _reset(session: Session, argument: str) -> None:
    session.conversation.messages.clear()
    session.attachments.clear()
    if session.archive is not None:
        session.archive.begin_anew()
    session.tell("a new conversation; settings and system message are as before")


def _system(session: Session, argument: str) -> None:
    if argument:
        session.conversation.system = None if argument == "off" else argument
        session.keep_changes()
    session.tell(f"system: {session.conversation.system or '(none)'}")


def _undo(session: Session, argument: str) -> None:
    question = session.conversation.undo()
    session.tried = None
    session.keep_changes()
    session.tell(f"taken back: {one_line(question, 60)}")


def _retry(session: Session, argument: str) -> bool:
    conversation = session.conversation
    if argument and not argument.isdecimal():
        raise OptionError(f"the seed is {argument!r}; it must be a whole number, 0 or more")
    before = None if conversation.open_question else conversation.messages[-1:]
    used = session.tried if before is None else conversation.last_seed
    conversation.reopen()
    try:
        if argument:
            seed = int(argument)
        else:
            seed = session.speaker.settings(conversation.settings).seed if used is None else used + 1
        session.tell(f"seed {seed}")
        return session.respond(seed)
    finally:
        if before and conversation.open_question:  # no other answer has come of it
            conversation.messages += before
            session.keep_changes()


def _save(session: Session, argument: str) -> None:
    if not argument:
        raise OptionError("/save needs the file to write, as in: /save talk.json")
    path = Path(argument).expanduser()
    archive.write(path, session.conversation)
    session.tell(f"saved to {path}")


def _load(session: Session, argument: str) -> None:
    path = Path(argument).expanduser() if argument else _last(session)
    loaded = archive.read(path)
    session.speaker.settings(loaded.settings)
    saved_with = loaded.model
    session.conversation = replace(loaded, model=session.speaker.name)
    session.attachments.clear()
    session.tried = None
    if session.archive is not None:
        session.archive.begin_anew()
    session.keep_changes()
    if saved_with != session.speaker.name:
        session.tell(f"held with {saved_with}, goes on with {session.speaker.name}")
    _recall(session)


def _last(session: Session) -> Path:
    path = session.archive.last() if session.archive is not None else None
    if path is None:
        raise ConversationError("no earlier conversation is kept; name a file, as in: /load talk.json")
    return path


def _recall(session: Session) -> None:
    """Show where a conversation stands."""
    messages = session.conversation.messages
    session.tell(f"{count_of(sum(message.role == 'user' for message in messages), 'question')}, the last:")
    for message in messages[-1:] if session.conversation.open_question else messages[-2:]:
        if message.role == "user":
            session.console.print(f"> {printable(message.content)}", markup=False, soft_wrap=True)
        else:
            show(session.console, message.content)
    if session.conversation.open_question:
        session.tell("it has no answer yet; /retry gives one")


def _set(session: Session, argument: str) -> None:
    conversation = session.conversation
    key, _, value = argument.partition(" ")
    names = [key_named(key)] if key else NAMES
    if value.strip():
        changed = with_setting(conversation.settings, key, value.strip())
        session.speaker.settings(changed)  # with the checkpoint's own values it must make sense too
        conversation.settings = changed
        session.keep_changes()
    settings = session.speaker.settings(conversation.settings)
    session.tell("\n".join(describe(conversation.settings, settings, name) for name in names))


def _mode(session: Session, argument: str) -> None:
    _set(session, f"mode {argument}")


def _think(session: Session, argument: str) -> None:
    if argument == "show":
        thought = session.last.thought if session.last is not None else ""
        session.tell(printable(thought) or "there was no thought before the last answer")
        return
    if argument and argument not in SWITCH:
        raise OptionError(f"/think {argument}: the nearest is {nearest(argument, SWITCH)!r}, of {', '.join(SWITCH)}")
    if argument:
        session.conversation.think = argument == "on"
        session.keep_changes()
    session.tell(f"thinking is {'on' if session.conversation.think else 'off'}")


def _stats(session: Session, argument: str) -> None:
    conversation, speaker = session.conversation, session.speaker
    tokens = speaker.count(conversation.prompt(), conversation.think) if conversation.messages else 0
    lines = [f"model {speaker.name} · context {tokens:,} of {speaker.longest_prompt:,} tokens"]
    if session.totals:
        stats = session.totals[-1].stats
        generated = sum(finish.stats.generated_tokens for finish in session.totals)
        seconds = sum(finish.stats.generation_seconds for finish in session.totals)
        lines += [
            f"last answer: {summary(session.totals[-1])}",
            f"  of its prompt {stats.cached_tokens:,} tokens were known from earlier turns",
            f"all {count_of(len(session.totals), 'answer')}: {generated:,} tokens in {seconds:.1f} s",
        ]
    session.tell("\n".join([*lines, f"memory in use {speaker.memory_bytes() / 1e9:.2f} GB"]))


def _file(session: Session, argument: str) -> None:
    if not argument:
        raise OptionError("/file needs the file to put into your message, as in: /file notes.txt")
    session.attach(Path(argument).expanduser())


def _quit(session: Session, argument: str) -> None:
    raise Leave


def offer_last(session: Session) -> None:
    """Say that an earlier conversation can be gone on with, if there is one."""
    path = session.archive.last() if session.archive is not None else None
    if path is None:
        return
    earlier = archive.read(path)
    questions = sum(message.role == "user" for message in earlier.messages)
    if questions:
        when = time.strftime("%d %b %H:%M", time.localtime(path.stat().st_mtime))
        session.tell(
            f"Your last conversation ({when}, {count_of(questions, 'question')}) is kept: /load goes on with it."
        )


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


KEYS = """\

Enter sends; Alt-Enter, Ctrl-J or a backslash at the end of a line begins another line.
Up and Down go through what you typed before, Ctrl-R searches it, Tab completes.
Ctrl-C stops an answer and keeps what is final, twice leaves; so does Ctrl-D."""

COMMANDS = {
    "/help": Command("", "this", _help),
    "/retry": Command("[SEED]", "another answer to the last question", _retry),
    "/undo": Command("", "take the last question and its answer back", _undo),
    "/reset": Command("", "begin a new conversation", _reset),
    "/file": Command(PATH, "put a text file into your next message", _file),
    "/system": Command("[TEXT]", 'show or set the system message; "off" takes it away', _system),
    "/think": Command("[on|off|show]", "whether to think first; show the last thought", _think),
    "/set": Command("[KEY [VALUE]]", 'show or set options; "default" is the checkpoint\'s', _set),
    "/mode": Command("[MODE]", "how a canvas is denoised", _mode),
    "/stats": Command("", "figures of the last answer and of all", _stats),
    "/save": Command(PATH, "write the conversation to a file", _save),
    "/load": Command(f"[{PATH}]", "go on with a saved conversation, or with your last one", _load),
    "/quit": Command("", "leave", _quit),
}
