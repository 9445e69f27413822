"""Files that a user names in the chat: paths as people paste them, and reading what is there.

Knows nothing of what the files hold.
"""

import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlx_diffusion.cli.chat.conversation import ConversationError
from mlx_diffusion.regular_files import read_regular


def typed_path(text: str) -> Path:
    """The path in a text: as it is, quoted or escaped as for a shell, or a file:// address; `~` is the home folder.

    Where a file has just the name that was typed, that one is meant. Raises ConversationError.
    """
    if "\0" in text:
        raise ConversationError(f"{text} is no name of a file; it holds a zero byte")
    if os.path.lexists(text):
        return Path(text)
    text = _unquoted(text)
    if re.match("file:/", text, re.IGNORECASE):
        address = urlsplit(text)
        if address.netloc not in ("", "localhost"):
            raise ConversationError(f"{text} is on {address.netloc}, another machine; copy the file here first")
        text = unquote(text.split("?")[0].split("#")[0].partition(":")[2].removeprefix("//" + address.netloc))
    return Path(os.path.expanduser(text))


def _unquoted(text: str) -> str:
    """A text without the quotes and backslashes that a shell would take away from one word."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote is not closed
        words = []
    return words[0] if len(words) == 1 else re.sub(r"\\(.)", r"\1", text)


def read_file(path: Path, longest: int, what: str) -> bytes:
    """The content of a regular file of at most `longest` bytes; `what` is to be named. Raises ConversationError."""
    if os.path.isdir(path):
        raise ConversationError(f"{path} is a folder; name {what}")
    try:
        return read_regular(path, longest)
    except OSError as error:
        raise ConversationError(f"{path} cannot be read ({error.strerror}); name {what}") from None
