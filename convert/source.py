"""The interface of a conversion's source, which gives a checkpoint's files one by one; and a folder as a source.

Looks into no file but the index and the safetensors headers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.description import described
from mlx_diffusion.checkpoint.headers import StoredTensor, read_header
from mlx_diffusion.checkpoint.layouts import unclaimed
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.checkpoint.weight_files import weight_files
from mlx_diffusion.convert.hub_digests import check_content, digest_in_cache
from mlx_diffusion.convert.known_files import files_in, is_small
from mlx_diffusion.display import size_text
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.regular_files import read_regular

State = tuple[int, ...]  # of a file: it differs once the file was written to or replaced
SMALL_BYTES = 200_000_000  # the most for a file that is read whole; the published tokenizer.json has 33 MB


def file_state(path: Path) -> State:
    """The size and times of a file; unlike the time of writing, the second time cannot be set."""
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


class Source(Protocol):
    """The files of a checkpoint. No name leads out of the folder that the file is copied to."""

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

    def read_small(self, name: str) -> bytes:
        """The content of one of them."""
        ...

    def laid_out(self, small: Mapping[str, bytes]) -> AbstractContextManager[Path]:
        """A folder in which these small files lie, by their names, as long as it is open. Raises CheckpointError."""
        ...

    def shards(self) -> list[str]:
        """The weight files, in the order in which they are read."""
        ...

    def headers(self) -> list[StoredTensor]:
        """All tensors, shard by shard, read without the weights."""
        ...

    def tensors(self, raw: Mapping[str, Any], config: ModelConfig) -> list[SourceTensor]:
        """The same as tensors of the model, in the order in which they are read; `raw` is config.json, see `config`."""
        ...

    def note(self, raw: Mapping[str, Any], tensors: Sequence[SourceTensor]) -> str | None:
        """A line for the user about what the source does not say of itself; None where there is nothing to say."""
        ...

    def changed(self, shard: str) -> int | None:
        """The time when the shard was last written, in nanoseconds; None if its revision fixes its content."""
        ...

    def stamp(self, shard: str) -> State | None:
        """The shard's state, which differs once it was written to or replaced since it was first there."""
        ...

    def download_bytes(self, shards: Sequence[str], at_once: int = 2) -> dict[Path, int]:
        """The most bytes that fetching these shards takes on disk, by the folder where they are put.

        Of a source that drops them again, `at_once` are there together.
        """
        ...

    def fetch(self, shard: str, after: str | None = None) -> Path:
        """Fetch the shard and give its path; `after`, the next one to be asked for, may be fetched meanwhile."""
        ...

    def drop(self, shard: str) -> None:
        """The shard is not needed any more."""
        ...


class LocalSource:
    """A folder, read in place."""

    def __init__(self, folder: Path, label: str | None = None, revision: str | None = None) -> None:
        self.folder = folder
        self.label = label or os.fsencode(folder).decode("utf-8", "backslashreplace")  # it goes into UTF-8 files
        self.revision = revision

    def small_files(self) -> list[str]:
        return sorted(name for name in files_in(self.folder) if is_small(name))

    def read_small(self, name: str) -> bytes:
        file = self.folder / name
        try:
            if not self._holds(file.resolve()):
                raise CheckpointError(f"{file} links to a file elsewhere, which is not read; put the file itself there")
            check_small(file.stat().st_size, str(file))
            self._check(name)
            return read_regular(file, SMALL_BYTES)
        except FileNotFoundError:
            raise CheckpointError(f"{self.label} has no {name}, so it is no checkpoint of DiffusionGemma") from None
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read ({error.strerror})") from None

    def laid_out(self, small: Mapping[str, bytes]) -> AbstractContextManager[Path]:
        return nullcontext(self.folder)

    def _holds(self, file: Path) -> bool:
        """True for a file in the folder, or among the Hub's cached files of the repository that the folder shows."""
        folder = self.folder.resolve()
        cached = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder
        return folder in file.parents or cached in file.parents

    def shards(self) -> list[str]:
        return [file.name for file in weight_files(self.folder)]

    def headers(self) -> list[StoredTensor]:
        return [entry for name in self.shards() for entry in read_header(self.folder / name)]

    def tensors(self, raw: Mapping[str, Any], config: ModelConfig) -> list[SourceTensor]:
        return described(raw, config, self.headers(), self.label)[1]

    def note(self, raw: Mapping[str, Any], tensors: Sequence[SourceTensor]) -> str | None:
        return unclaimed(raw, tensors, self.label)

    def changed(self, shard: str) -> int | None:
        return None if self.revision else (self.folder / shard).stat().st_mtime_ns

    def stamp(self, shard: str) -> State | None:
        return file_state(self.folder / shard)

    def download_bytes(self, shards: Sequence[str], at_once: int = 2) -> dict[Path, int]:
        return {}

    def fetch(self, shard: str, after: str | None = None) -> Path:
        self._check(shard)
        return self.folder / shard

    def _check(self, name: str) -> None:
        """Refuse a file of the Hub's cache that differs from the Hub's in any byte. Raises CheckpointError."""
        if self.revision:
            path = self.folder / name
            remedy = f"remove {path.resolve()}, and the same call fetches it again once the Hub can be reached"
            check_content(path, digest_in_cache(path), f"{self.label}/{name}", remedy)

    def drop(self, shard: str) -> None:
        """Nothing: the folder is the user's."""


def check_small(nbytes: int, where: str) -> None:
    """Refuse to read a file whole that is larger than any config, tokenizer or card. Raises CheckpointError."""
    if nbytes > SMALL_BYTES:
        raise CheckpointError(
            f"{where} has {size_text(nbytes)}, where {size_text(SMALL_BYTES)} are the most; remove or replace it"
        )
