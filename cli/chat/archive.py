"""Keeps conversations on disk: where the user says, and while they go on in the program's state folder.

Only the user may read the files. Knows nothing of what a conversation holds.
"""

import os
import time
from pathlib import Path

from mlx_diffusion.cli.chat.conversation import Conversation, ConversationError
from mlx_diffusion.whole_files import write_whole

MOST_KEPT = 30


def write(path: Path, conversation: Conversation) -> None:
    """Save a conversation. Raises ConversationError."""
    write_whole(path, conversation.to_json().encode(), error=ConversationError, private=True)


def read(path: Path) -> Conversation:
    """A saved conversation. Raises ConversationError."""
    try:
        return Conversation.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversationError(f"{path} cannot be read ({error.strerror}); give the file of a conversation") from None
    except UnicodeDecodeError:
        raise ConversationError(f"{path} is not text; give the file of a conversation") from None
    except ConversationError as error:
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
