"""The commands that can be typed instead of a message: their table, and how one is run and completed.

Knows nothing of keys, completion menus or what the commands do.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mlx_diffusion.cli.chat import slash_actions
from mlx_diffusion.cli.chat.nearest import nearest
from mlx_diffusion.cli.chat.session import Session
from mlx_diffusion.cli.chat.settings import DEFAULT, key_named, suggestions
from mlx_diffusion.errors import OptionError
from mlx_diffusion.modes import MODES
from mlx_diffusion.options import NAMES
from mlx_diffusion.visible_text import notice

PATH = "PATH"
MEANT = {
    "/help": ("?", "h", ":h", ":help", "help()", "man"),
    "/quit": ("exit", "exit()", "quit()", "q", ":q", ":q!", ":quit", ":wq", ":x", "\\q", "bye", "logout"),
}


@dataclass(frozen=True)
class SlashCommand:
    """One line of the table; `run` returns whether Ctrl-C stopped what it did."""

    argument: str
    help: str
    run: Callable[[Session, str], bool | None]


def run_command(session: Session, line: str) -> bool:
    """Run a line that begins with a slash; returns whether Ctrl-C stopped it. Raises DiffusionError and Leave."""
    name, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None and "/" in name[1:]:
        raise OptionError(f"{name} looks like a file; /file {line.strip()} puts it into your next message")
    if command is None:
        raise OptionError(
            f"unknown command {name!r}; the nearest is {nearest(name, COMMANDS)!r}; /help shows all "
            "(a message that begins with a slash needs a space before it)"
        )
    argument = argument.strip()
    if argument and not command.argument:
        raise OptionError(f"{name} takes nothing behind it, not {argument!r}")
    return bool(command.run(session, argument))


def hint_at_commands(line: str) -> str | None:
    """A hint where a line is a single word that other programs take for a command; with a space before it, it is none.

    The line is not to be sent then.
    """
    word = line.rstrip().lower()
    meant = next((name for name, words in MEANT.items() if word in words), f"/{word}")
    if meant not in COMMANDS:
        return None
    return f"{notice(word)} is not sent: {meant} is the command; with a space before it, the word goes to the model"


def completions(session: Session, line: str) -> list[str] | None:
    """Completions of the last word of a line; None where it is a path."""
    name, space, rest = line.partition(" ")
    if not space:
        return [known for known in COMMANDS if known.startswith(name)]
    words = rest.split(" ")
    offered: list[str] = []
    if name in COMMANDS and PATH in COMMANDS[name].argument:
        return None
    if name == "/set" and len(words) == 1:
        offered = [*NAMES, DEFAULT]
    elif name == "/set" and len(words) == 2 and words[0].replace("-", "_") in NAMES:
        offered = suggestions(key_named(words[0]), session.speaker.settings(session.conversation.settings))
    elif name == "/mode" and len(words) == 1:
        offered = list(MODES)
    elif name == "/think" and len(words) == 1:
        offered = list(slash_actions.SWITCH)
    return [word for word in offered if word.startswith(words[-1].replace("-", "_"))]


KEYS = """\

Enter sends; Alt-Enter, Ctrl-J or a backslash at the end of a line begins another line.
Up and Down go through what you typed before, Ctrl-R searches it, Tab completes.
Ctrl-C stops an answer and keeps what is final, twice leaves; so does Ctrl-D."""


def _help(session: Session, argument: str) -> None:
    width = max(len(f"{name} {command.argument}") for name, command in COMMANDS.items())
    lines = [f"{f'{name} {command.argument}':<{width}}  {command.help}" for name, command in COMMANDS.items()]
    session.tell("\n".join([*lines, KEYS]))


COMMANDS = {
    "/help": SlashCommand("", "this", _help),
    "/retry": SlashCommand("[SEED]", "another answer to the last question", slash_actions.retry),
    "/undo": SlashCommand("", "take the last question and its answer back", slash_actions.undo),
    "/reset": SlashCommand("", "begin a new conversation", slash_actions.reset),
    "/file": SlashCommand(
        f"[{PATH}|off]", "put a text file into your next message; drop all such files", slash_actions.attach_file
    ),
    "/system": SlashCommand("[TEXT]", 'show or set the system message; "off" takes it away', slash_actions.set_system),
    "/think": SlashCommand(
        "[on|off|show]", "whether to think first; show the last thought", slash_actions.set_thinking
    ),
    "/set": SlashCommand(
        "[KEY [VALUE]]",
        'show or set options; "default" is the checkpoint\'s, of one or of all',
        slash_actions.set_option,
    ),
    "/mode": SlashCommand("[MODE]", "how a canvas is denoised", slash_actions.set_mode),
    "/stats": SlashCommand("", "figures of the last answer and of all", slash_actions.show_figures),
    "/save": SlashCommand(
        f"[--force] {PATH}", "write the conversation to a file, a .md to read", slash_actions.save_conversation
    ),
    "/load": SlashCommand(
        f"[{PATH}]", "go on with a saved conversation, or with your last one", slash_actions.load_conversation
    ),
    "/quit": SlashCommand("", "leave", slash_actions.leave),
}
