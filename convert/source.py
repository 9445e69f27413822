"""Where a checkpoint's files come from, one by one; here, a folder.

Knows nothing of what is in them but the index and the safetensors headers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from mlx_diffusion.checkpoint.folder import weight_files
from mlx_diffusion.checkpoint.headers import StoredTensor, read_header
from mlx_diffusion.errors import CheckpointError

SMALL = (".json", ".jinja", ".model", ".txt", ".md")  # all else that may stand beside the weights is left behind


class Source(Protocol):
    """A checkpoint's files. Names are plain: none leaves the folder that it is copied to."""

    @property
    def label(self) -> str:
        """The folder or the Hub id."""
        ...

    @property
    def revision(self) -> str | None:
        """The commit on the Hub that all files are of; None for a folder."""
        ...

    def small_files(self) -> list[str]:
        """Config, tokenizer, templates and cards."""
        ...

    def read_small(self, name: str) -> bytes: ...

    def shards(self) -> list[str]:
        """The weight files, in the order in which they are read."""
        ...

    def headers(self) -> list[StoredTensor]:
        """All tensors, shard by shard, read without the weights."""
        ...

    def changed(self, shard: str) -> int | None:
        """When the shard was last written, in nanoseconds; None where a revision vouches for what is in it."""
        ...

    def download_bytes(self, shards: Sequence[str]) -> dict[Path, int]:
        """The bytes that fetching these shards takes at most, by the folder that they come to lie in."""
        ...

    def fetch(self, shard: str, after: str | None = None) -> Path:
        """Where the shard lies on this machine; `after`, the next one that will be asked for, may come meanwhile."""
        ...

    def drop(self, shard: str) -> None:
        """Nobody will ask for the shard again."""
        ...


class LocalSource:
    """A folder, read in place."""

    def __init__(self, folder: Path, label: str | None = None, revision: str | None = None) -> None:
        self.folder = folder
        self.label = label or os.fsencode(folder).decode("utf-8", "backslashreplace")  # it goes into UTF-8 files
        self.revision = revision

    def small_files(self) -> list[str]:
        names = (file.name for file in self.folder.iterdir() if file.suffix in SMALL and file.is_file())
        return sorted(names)

    def read_small(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise CheckpointError(f"{self.label} has no {name}, so it is no checkpoint of DiffusionGemma") from None
        except OSError as error:
            raise CheckpointError(f"{self.folder / name} cannot be read ({error.strerror})") from None

    def shards(self) -> list[str]:
        return [file.name for file in weight_files(self.folder)]

    def headers(self) -> list[StoredTensor]:
        return [entry for name in self.shards() for entry in read_header(self.folder / name)]

    def changed(self, shard: str) -> int | None:
        return None if self.revision else (self.folder / shard).stat().st_mtime_ns

    def download_bytes(self, shards: Sequence[str]) -> dict[Path, int]:
        return {}

    def fetch(self, shard: str, after: str | None = None) -> Path:
        return self.folder / shard

    def drop(self, shard: str) -> None:
        """Nothing: the folder is the user's."""


def fetched(source: Source, shards: Sequence[str]) -> Iterator[Path]:
    """Where the shards lie, one by one; each is dropped when the next is asked for, which comes meanwhile."""
    for shard, after in zip_longest(shards, shards[1:]):
        yield source.fetch(shard, after)
        source.drop(shard)
