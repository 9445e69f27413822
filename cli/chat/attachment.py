"""Reads files to be put into a message.

Knows nothing of conversations: the caller says how many bytes can be of use.
"""

from pathlib import Path

from mlx_diffusion.cli.chat.conversation import ConversationError
from mlx_diffusion.cli.chat.files import read_file


def read_attachment(path: Path, longest: int) -> str:
    """The text of a file of at most `longest` bytes. Raises ConversationError."""
    content = read_file(path, longest, "a text file that fits into the context")
    if b"\0" in content:
        raise ConversationError(f"{path} is a binary file; only text can go into a message")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConversationError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from None
    if not text.strip():
        raise ConversationError(f"{path} is empty; there is nothing to put into the message")
    return text


def with_attachments(text: str, attachments: list[tuple[str, str]]) -> str:
    """A message, followed by each file under its name."""
    return "\n\n".join([text, *(f"{name}:\n\n{content.strip()}" for name, content in attachments)])
