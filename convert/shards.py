"""Distributes tensors over the output's weight files, and writes such a file whole or not at all.

Output files follow the source's: each holds the results of one source file, in that file's order, so that only one
source file has to be there at a time. Tensors that lie in two of them (experts that come one by one, where a file ends)
make an output file of their own. Knows nothing of recipes, of where source files come from, or of what else lies in the
folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from pathlib import Path

from mlx_diffusion.checkpoint.headers import write_header
from mlx_diffusion.checkpoint.pieces import Piece, written_tensors
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.checkpoint.weight_files import SINGLE_FILE
from mlx_diffusion.convert.large_files import flush_and_forget, forget, uncached
from mlx_diffusion.convert.quantise import Chunk, Files, chunks, digest, transfer
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.whole_files import PART, flush

SHARD_BYTES = 4_000_000_000  # the most for a file, unless a single tensor is larger
FLUSH_BYTES = 32_000_000  # of the source, between two flushes


@dataclass(frozen=True)
class Shard:
    """One output file, and the tensors of the same source files from which it is made."""

    name: str
    sources: tuple[str, ...]
    entries: tuple[tuple[SourceTensor, Piece], ...]
    header: bytes  # with which the file begins
    starts: Mapping[str, int]  # the offset of each written tensor in it

    @classmethod
    def of(cls, name: str, entries: Sequence[tuple[SourceTensor, Piece]]) -> Shard:
        """The output file of that name, made from these tensors."""
        header, starts = write_header(written_tensors(piece for _, piece in entries))
        return cls(name, _needed(entries[0]), tuple(entries), header, starts)

    @property
    def source_bytes(self) -> int:
        return sum(source.nbytes for source, _ in self.entries)

    def chunks(self) -> list[Chunk]:
        return [chunk for source, piece in self.entries for chunk in chunks(source, piece, self.starts)]

    @property
    def nbytes(self) -> int:
        """The size of the whole file."""
        return len(self.header) + sum(piece.nbytes for _, piece in self.entries)


def _needed(entry: tuple[SourceTensor, Piece]) -> tuple[str, ...]:
    return tuple(sorted(entry[0].files))


def split_into_shards(sources: Sequence[SourceTensor], made: Sequence[Piece], limit: int = SHARD_BYTES) -> list[Shard]:
    """The output files for these tensors, which are ordered by source file, and the pieces made of them."""
    groups: list[list[tuple[SourceTensor, Piece]]] = []
    filled = 0
    for entry in zip(sources, made, strict=True):
        _, piece = entry
        if not groups or _needed(entry) != _needed(groups[-1][-1]) or filled + piece.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += piece.nbytes
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    if len(names) == 1:
        names = [SINGLE_FILE]
    return [Shard.of(name, group) for name, group in zip(names, groups, strict=True)]


def weight_index(shards: Sequence[Shard]) -> dict[str, object]:
    """The content of model.safetensors.index.json."""
    weight_map = {name: shard.name for shard in shards for name in shard.starts}
    total_size = sum(piece.nbytes for shard in shards for _, piece in shard.entries)
    return {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}


def whole_files(shards: Iterable[Shard], folder: Path, changed: Mapping[str, int | None]) -> set[str]:
    """Names of the files that are in the folder, whole, and made from the source as it is now.

    `changed` has the time when each source file was last written, in nanoseconds (None: it cannot change).
    """
    return {
        shard.name for shard in shards if all(_is_whole(shard, folder, changed[source]) for source in shard.sources)
    }


def _is_whole(shard: Shard, folder: Path, changed: int | None) -> bool:
    """True if the file has its final name, header and size, and its source was not `changed` after it was written."""
    file = folder / shard.name
    if not file.is_file() or file.stat().st_size != shard.nbytes:
        return False
    if changed is not None and changed > file.stat().st_mtime_ns:
        return False
    with file.open("rb") as stream:
        return stream.read(len(shard.header)) == shard.header


def write_shard(
    shard: Shard,
    sources: Mapping[str, Path],
    folder: Path,
    threads: Executor,
    advance: Callable[[int], None],
    note: Callable[[str], None],
) -> None:
    """Write the file under a temporary name and rename it once it is whole; `sources` has the paths of source files.

    `advance` is told the bytes that were read, chunk by chunk; `note`, before the file gets its name, the digest of all
    that was read. However this ends, no thread works on it any more, and an error leaves nothing of it.
    """
    part = folder / (shard.name + PART)
    try:
        note(_write_part(shard, sources, part, threads, advance))
        os.replace(part, folder / shard.name)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    flush(folder)


def _write_part(
    shard: Shard, sources: Mapping[str, Path], part: Path, threads: Executor, advance: Callable[[int], None]
) -> str:
    """Write all of a file to the disk under its temporary name; returns the digest of what was read."""
    found = sha256()
    with _open_sources(shard, sources) as files, part.open("wb") as output:
        output.write(shard.header)
        output.truncate(shard.nbytes)
        output.flush()
        end = uncached(output.fileno())
        todo = shard.chunks()
        work = [threads.submit(transfer, chunk, files, end) for chunk in todo]
        try:
            unflushed = 0
            for chunk, transferred in zip(todo, work, strict=True):
                found.update(transferred.result())
                advance(chunk.nbytes)
                unflushed += chunk.nbytes
                if unflushed >= FLUSH_BYTES:  # the threads work on meanwhile
                    flush_and_forget(output.fileno())
                    for span in chunk.spans:
                        forget(files[span.file], span.offset + span.nbytes)
                    unflushed = 0
        finally:
            for transferred in work:
                transferred.cancel()
            wait(work)  # before the files are closed
        flush_and_forget(output.fileno())
    return found.hexdigest()


def source_digest(shard: Shard, sources: Mapping[str, Path], threads: Executor) -> str:
    """The digest of all bytes from which the file is made, as `write_shard` notes it."""
    found = sha256()
    with _open_sources(shard, sources) as files:
        work = [threads.submit(digest, chunk, files) for chunk in shard.chunks()]
        try:
            for read_chunk in work:
                found.update(read_chunk.result())
        finally:
            for read_chunk in work:
                read_chunk.cancel()
            wait(work)
        for descriptor in files.values():
            forget(descriptor)
    return found.hexdigest()


@contextmanager
def _open_sources(shard: Shard, paths: Mapping[str, Path]) -> Iterator[Files]:
    """The source files of which an output file is made, open."""
    with ExitStack() as stack:
        files = {}
        for name in shard.sources:
            try:
                files[name] = uncached(stack.enter_context(FileIO(paths[name], "rb")).fileno())
            except OSError as error:
                raise CheckpointError(f"{paths[name]} cannot be read ({error.strerror}); download it again") from None
        yield files
