"""The history of the prompt: lines that were typed in earlier chats, in a file that only the user may read.

A file that cannot be read or written is said once, and what is typed is remembered for this chat alone.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory


class PrivateHistory(FileHistory):
    """Lines in a file; `problem` says in one line why it is not used, if so."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.file = file
        self.problem: str | None = None
        self._open()

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings()) if self.problem is None else []
        except OSError as error:
            self._note(error)
            return []

    def store_string(self, string: str) -> None:
        self._open()
        if self.problem is None:
            try:
                super().store_string(string)
            except OSError as error:
                self._note(error)

    def _open(self) -> None:
        """Make sure that there is a regular file, and that it is the user's alone."""
        if self.problem is not None:
            return
        try:
            if self.file.exists() and not self.file.is_file():
                raise OSError(0, "it is no regular file")
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                    os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._note(error)

    def _note(self, error: OSError) -> None:
        self.problem = (
            f"from here on what you type is not kept: {self.file} cannot be used ({error.strerror}); "
            "move it away or make room"
        )
