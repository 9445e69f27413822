"""A repository on the Hub as a source of a conversion, file by file, at one commit.

Headers are fetched by range requests, so that sizes are known without the weights. With `stream_into` a shard is on
disk only while it is needed, and the next one is fetched meanwhile. Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub import errors as hub
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.description import described
from mlx_diffusion.checkpoint.folder import CONFIG_FILE, check_finished, local_folder
from mlx_diffusion.checkpoint.headers import StoredTensor
from mlx_diffusion.checkpoint.hub_cache import cache_folder, cached_snapshots, is_cached
from mlx_diffusion.checkpoint.hub_errors import http_error, hub_errors
from mlx_diffusion.checkpoint.hub_files import hub_headers
from mlx_diffusion.checkpoint.layouts import unclaimed
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.checkpoint.weight_files import (
    INDEX_FILE,
    check_links,
    check_plain,
    is_whole,
    refuse_gguf,
    weight_names,
)
from mlx_diffusion.convert.gguf_source import GgufSource, gguf_file
from mlx_diffusion.convert.hub_digests import check_content, digests_of
from mlx_diffusion.convert.known_files import is_small
from mlx_diffusion.convert.source import LocalSource, Source, State, check_small, file_state
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.json_files import parse_json

TIMEOUT = 30.0  # seconds without an answer
GO_ON = "the same call goes on"


def open_source(path_or_id: str | Path, *, revision: str | None = None, stream_into: Path | None = None) -> Source:
    """Open a folder, a GGUF, or a Hub id at `revision`; if the Hub cannot be reached, its cache on this machine."""
    gguf = gguf_file(path_or_id)
    if gguf is not None and revision is not None:
        raise CheckpointError(f"{path_or_id} is a file and has no revision {revision!r}; leave one of both out")
    if gguf is not None:
        return GgufSource(gguf)
    folder = local_folder(path_or_id)
    if folder is not None:
        if revision is not None:
            raise CheckpointError(f"{path_or_id} is a folder and has no revision {revision!r}; leave one of both out")
        check_finished(folder)
        check_links(folder)
        return LocalSource(folder.resolve())
    repo_id = str(path_or_id)
    with hub_errors(repo_id, GO_ON, revision):
        try:
            info = HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
        except (hub.HfHubHTTPError, hub.HFValidationError):  # an answer of the Hub's, or a name that it cannot have
            raise
        except (http_error(), OSError, ValueError):  # or an answer that is not the Hub's, but a portal's
            cached = _cached(repo_id, revision)
            return LocalSource(cached, label=repo_id, revision=cached.name)
    return HubSource(repo_id, str(info.sha), info.siblings or [], stream_into)


def _cached(repo_id: str, revision: str | None) -> Path:
    """The folder of a whole checkpoint in the Hub's cache, which may know its commit and not its branch."""
    try:
        # Without the pattern, a file that no conversion needs would make the snapshot incomplete.
        local = snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=[CONFIG_FILE])
        found = [Path(local)]
    except hub.LocalEntryNotFoundError:
        found = cached_snapshots(repo_id) if revision is None else []
    whole = [folder for folder in found if is_whole(folder)]
    if not whole:
        raise hub.LocalEntryNotFoundError(repo_id)
    return whole[-1]


class _NoBar(tqdm):
    """A progress bar that is not drawn."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"disable": True})


class HubSource:
    """A repository at a commit, with the sizes and digests of its files."""

    def __init__(self, repo_id: str, revision: str, files: Collection[RepoSibling], stream_into: Path | None) -> None:
        self.label = repo_id
        self.revision: str | None = revision
        self._sizes = {file.rfilename: file.size or 0 for file in files}
        self._digests = digests_of(files)
        self._states: dict[str, tuple[Path, State]] = {}  # of the weight files that are here, before they were checked
        self._stream_into = stream_into
        self._snapshot = cache_folder()  # where the small files come to lie
        self._coming: dict[str, Future[Path]] = {}
        self._swept = False
        if stream_into is not None:
            # Without this, hf_xet may keep a copy of all it fetches, up to 10 GB.
            os.environ.setdefault("HF_XET_CHUNK_CACHE_SIZE_BYTES", "0")

    def small_files(self) -> list[str]:
        check_plain((name for name in self._sizes if "/" not in name and name[0] != "."), self.label)
        return sorted(name for name in self._sizes if is_small(name))

    def read_small(self, name: str) -> bytes:
        if name not in self._sizes:
            refuse_gguf(self._sizes, self.label)
            raise CheckpointError(f"{self.label} has no {name}, so it is no checkpoint of DiffusionGemma")
        check_small(self._sizes[name], f"{self.label}/{name}")
        with hub_errors(self.label, GO_ON, self.revision):
            path = Path(hf_hub_download(self.label, name, revision=self.revision))
        self._check(name, path)
        self._snapshot = path.parents[name.count("/")]
        return path.read_bytes()

    def laid_out(self, small: Mapping[str, bytes]) -> AbstractContextManager[Path]:
        return nullcontext(self._snapshot)

    def shards(self) -> list[str]:
        where = f"{self.label}/{INDEX_FILE}"
        return weight_names(self._sizes, lambda: parse_json(self.read_small(INDEX_FILE), where), self.label)

    def headers(self) -> list[StoredTensor]:
        return hub_headers(self.label, self.revision, {name: self._sizes[name] for name in self.shards()}, GO_ON)

    def tensors(self, raw: Mapping[str, Any], config: ModelConfig) -> list[SourceTensor]:
        return described(raw, config, self.headers(), self.label)[1]

    def note(self, raw: Mapping[str, Any], tensors: Sequence[SourceTensor]) -> str | None:
        return unclaimed(raw, tensors, self.label)

    def changed(self, shard: str) -> int | None:
        return None

    def stamp(self, shard: str) -> State | None:
        path, state = self._states.get(shard, (None, None))
        return None if path is None or file_state(path) == state else file_state(path)

    def download_bytes(self, shards: Sequence[str], at_once: int = 2) -> dict[Path, int]:
        if self._stream_into is not None:
            return {self._stream_into: sum(sorted(self._sizes[shard] for shard in shards)[-at_once:])}
        missing = [name for name in shards if not is_cached(self.label, name, self.revision, self._digests.get(name))]
        return {cache_folder(): sum(self._sizes[name] for name in missing)}

    def fetch(self, shard: str, after: str | None = None) -> Path:
        wanted = self._coming.pop(shard, None)
        for other in list(self._coming):  # fetched and never asked for; so there are never more than two
            wait([self._coming.pop(other)])
            self.drop(other)
        path = (wanted or self._start(shard, tqdm)).result()
        if after is not None:
            self._coming[after] = self._start(after, _NoBar)  # another bar is in the terminal meanwhile
        return path

    def drop(self, shard: str) -> None:
        if self._stream_into is not None:
            self._states.pop(shard, None)
            (self._stream_into / shard).unlink(missing_ok=True)

    def _start(self, shard: str, bar: type[tqdm]) -> Future[Path]:
        """Download in a thread that does not keep the process alive."""
        future: Future[Path] = Future()

        def work() -> None:
            try:
                future.set_result(self._download(shard, bar))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name=f"download of {shard}", daemon=True).start()
        return future

    def _download(self, shard: str, bar: type[tqdm]) -> Path:
        self._sweep()
        with hub_errors(self.label, GO_ON, self.revision):
            file = hf_hub_download(
                self.label, shard, revision=self.revision, local_dir=self._stream_into, tqdm_class=bar
            )
        path = Path(file)
        self._states[shard] = path, file_state(path)
        try:
            self._check(shard, path)
        except CheckpointError:
            self.drop(shard)
            raise
        return path

    def _check(self, name: str, path: Path) -> None:
        """Refuse a file that differs from the Hub's in any byte, whoever wrote it. Raises CheckpointError."""
        streamed = path.parent == self._stream_into
        remedy = "the same call fetches it again" if streamed else f"remove {path.resolve()}, and {GO_ON}"
        check_content(path, self._digests.get(name), f"{self.label}/{name}", remedy)

    def _sweep(self) -> None:
        """Remove incomplete files of a killed run: huggingface_hub would keep them and begin new ones."""
        if self._stream_into is not None and not self._swept:
            for part in (self._stream_into / ".cache" / "huggingface").rglob("*.incomplete"):
                part.unlink(missing_ok=True)
        self._swept = True


def local_copy(path_or_id: str | Path, revision: str | None) -> Path:
    """The folder with all weight files of a source, fetched if necessary; a GGUF itself."""
    gguf = gguf_file(path_or_id)
    if gguf is not None:
        return gguf
    source = open_source(path_or_id, revision=revision)
    folders = [source.fetch(shard).parent for shard in source.shards()]  # one, where all of them lie
    return folders[0]
