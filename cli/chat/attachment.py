"""Reads files to be put into a message.

Knows nothing of conversations: the caller says how many bytes can be of use.
"""

from pathlib import Path

from mlx_diffusion.cli.chat.conversation import ConversationError


def read_attachment(path: Path, longest: int) -> str:
    """The text of a file of at most `longest` bytes. Raises ConversationError."""
    try:
        if path.is_dir():
            raise ConversationError(f"{path} is a folder; name one file in it")
        if not path.is_file() and path.exists():
            raise ConversationError(f"{path} is no regular file; name a text file")
        with path.open("rb") as stream:
            content = stream.read(longest + 1)
    except OSError as error:
        raise ConversationError(f"{path} cannot be read ({error.strerror}); check the name") from None
    if b"\0" in content:
        raise ConversationError(f"{path} is a binary file; only text can go into a message")
    if len(content) > longest:
        raise ConversationError(f"{path} has more than {longest:,} bytes, too many for the context; take a part of it")
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
