"""Keeps conversations on disk: where the user says, and while they go on in the program's state folder.

Only the user may read the files. Knows nothing of what a conversation holds.
"""

import os
import time
from pathlib import Path

from mlx_diffusion.cli.chat.conversation import Conversation, ConversationError
from mlx_diffusion.cli.chat.files import read_file
from mlx_diffusion.whole_files import write_whole

MOST_KEPT = 30
PAGES = (".md", ".markdown")  # names of files that are Markdown
LONGEST = 64_000_000  # bytes of a conversation that is read


def write(path: Path, conversation: Conversation) -> None:
    """Save a conversation: as a page to read where the file's name asks for Markdown. Raises ConversationError."""
    as_page = path.suffix.lower() in PAGES
    content = conversation.to_markdown() if as_page else conversation.to_json()
    write_whole(path, content.encode(), error=ConversationError, private=True)


def read(path: Path) -> Conversation:
    """A saved conversation. Raises ConversationError."""
    content = read_file(path, LONGEST, "the file of a conversation")
    try:
        return Conversation.from_json(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConversationError(f"{path} is not text; give the file of a conversation") from None
    except ConversationError as error:
        if path.suffix.lower() in PAGES:
            raise ConversationError(f"{path} is a page to read; load what was saved as .json") from None
        raise ConversationError(f"{path} is broken ({error}); mend it or delete it") from None


class Archive:
    """The conversations of earlier chats, and the file of this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "conversations"
        self._file: Path | None = None

    def keep(self, conversation: Conversation) -> None:
        """Write this chat's conversation over its earlier state. Raises ConversationError."""
        if self._file is None:
            make_private(self.folder)
            self._file = self._new_name()
            for old in self.kept()[MOST_KEPT - 1 :]:
                old.unlink(missing_ok=True)
        write(self._file, conversation)

    def begin_anew(self) -> None:
        """Leave the file as it is, since another conversation begins."""
        self._file = None

    def last(self) -> Path | None:
        """The file of the last conversation before this one."""
        return next((file for file in self.kept() if file != self._file), None)

    def kept(self) -> list[Path]:
        """The files of all conversations, the newest first."""
        try:
            return sorted(self.folder.glob("*.json"), key=lambda file: (file.stat().st_mtime_ns, file), reverse=True)
        except OSError:
            return []

    def _new_name(self) -> Path:
        stem = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.getpid()}"
        names = (self.folder / f"{stem}{suffix}.json" for suffix in ("", *(f"-{number}" for number in range(1, 1000))))
        return next(name for name in names if not name.exists())


def make_private(folder: Path) -> None:
    """Make a folder that only the user may read. Raises ConversationError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConversationError(
            f"{folder} cannot be made ({error.strerror}); set XDG_STATE_HOME to a folder of yours, or add --no-save"
        ) from None
