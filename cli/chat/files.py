"""Files that a user names in the chat: paths as people paste them, and files that are judged before they are read.

Knows nothing of what the files hold.
"""

import os
import re
import shlex
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlx_diffusion.cli.chat.conversation import ConversationError


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


def read_regular(path: Path, longest: int, what: str) -> bytes:
    """The content of a regular file of at most `longest` bytes; `what` is to be named. Raises ConversationError."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ConversationError(f"{path} is a folder (a directory); name one file in it")
        if not stat.S_ISREG(mode):
            raise ConversationError(f"{path} is no regular file; name {what}")
        with path.open("rb") as stream:
            content = stream.read(longest + 1)
    except OSError as error:
        raise ConversationError(f"{path} cannot be read ({error.strerror}); name {what}") from None
    if len(content) > longest:
        raise ConversationError(f"{path} has more than {longest:,} bytes, too many; name {what} or take a part of it")
    return content
