"""A folder in which a server's prefix store outlives its process: one file a model, whole or absent.

Knows nothing of requests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.errors import DiffusionError, OptionError
from mlx_diffusion.whole_files import lock

REST_SECONDS = 20.0  # between two times that the store is written


class PrefixFolder:
    """A folder that this process alone uses until it is closed. Raises OptionError where that cannot be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            lock(self._descriptor)
            for part in folder.glob(".*.part.safetensors"):  # of a process that was killed while it wrote
                part.unlink()
        except BlockingIOError:
            raise OptionError(f"another server keeps its prefixes in {folder}; choose another --prefix-store") from None
        except OSError as error:
            said = error.strerror or error
            raise OptionError(f"no prefixes can be kept in {folder} ({said}); choose another --prefix-store") from None

    def close(self) -> None:
        """Let others use the folder."""
        os.close(self._descriptor)

    def file(self, store: PrefixStore) -> Path:
        """The file of the store's model, which no other model or recipe has."""
        return self.folder / f"{store.identity[:32]}.safetensors"


class KeptOnDisk:
    """A store and its file: read once, and written when something is new. Used in one thread."""

    def __init__(self, store: PrefixStore, folder: PrefixFolder, log: Callable[[str], None]) -> None:
        self._store, self._folder, self._log = store, folder, log
        self._written = 0  # the store's changes that the file has
        self._next = 0.0  # a reading of time.monotonic

    def read(self) -> None:
        """Take in what the file has; a damaged one is passed over, and written anew in time."""
        file = self._folder.file(self._store)
        if file.exists():
            try:
                self._store.load(file)
            except DiffusionError as error:
                self._log(str(error))
        self._written = self._store.changes

    def close(self) -> None:
        """Write what is new, and let others use the folder."""
        self.write()
        self._folder.close()

    @property
    def waits(self) -> float | None:
        """Seconds until the file may be written again; None where nothing is new."""
        return None if self._written == self._store.changes else max(0.0, self._next - time.monotonic())

    def write(self) -> None:
        """Write what is kept, if anything is new."""
        if self._written == self._store.changes:
            return
        self._written = self._store.changes
        try:
            self._store.save(self._folder.file(self._store))
        except DiffusionError as error:
            self._log(str(error))
        self._next = time.monotonic() + REST_SECONDS
