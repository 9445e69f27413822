"""The one message of `chat -m`: its text, and below it the files that are named, standard input among them.

Standard input is read only where it is asked for: in a loop over lines it holds the lines to come. Knows nothing of how
a message is answered.
"""

import argparse
import os
import stat
import sys

from mlx_diffusion.cli.arguments import LONGEST_PROMPT, read_standard_input, ready
from mlx_diffusion.cli.messages import say
from mlx_diffusion.visible_text import visible

STANDARD_INPUT = "-"


def read_message(args: argparse.Namespace) -> str | None:
    """The message, or all of standard input if that is no terminal; None for a conversation. Raises DiffusionError."""
    if args.message is None:
        if sys.stdin is None:
            args.usage_error('no standard input to read messages from; give one with -m "..."')
        if args.file:
            args.usage_error('--file is for one message; add -m "..."')
        if sys.stdin.isatty():
            return None
        message = read_standard_input(args).strip()
    else:
        parts = [args.message.strip(), *(_read(args, name) for name in args.file or ())]
        message = "\n\n".join(filter(None, parts))
        if STANDARD_INPUT not in (args.file or ()) and sys.stderr.isatty() and _has_input():
            say(f"standard input is left alone; --file {STANDARD_INPUT} would put it below the message")
    if not message:
        args.usage_error('the message is empty; write something for the model to answer, as in: -m "Sort: fig oak ant"')
    return message


def _read(args: argparse.Namespace, name: str) -> str:
    """A file as it stands below a message. Raises ConversationError."""
    from mlx_diffusion.cli.chat.attachment import read_attachment, with_attachments
    from mlx_diffusion.cli.chat.files import typed_path

    if name == STANDARD_INPUT:
        if sys.stdin is None:
            args.usage_error(f"--file {STANDARD_INPUT} is standard input, which is closed; name a file")
        return read_standard_input(args).strip()
    return with_attachments("", [(visible(name), read_attachment(typed_path(name), LONGEST_PROMPT))]).strip()


def _has_input() -> bool:
    """Whether somebody may have meant standard input to be read: a pipe or a file that has something."""
    try:
        descriptor = sys.stdin.fileno()
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            return found.st_size > os.lseek(descriptor, 0, os.SEEK_CUR)
        return stat.S_ISFIFO(found.st_mode) and ready(0)
    except (AttributeError, OSError, ValueError):  # closed, or not one of the system's files
        return False
