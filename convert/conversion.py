"""A checkpoint on the Hub or in a folder to an MLX checkpoint in another folder, whole or to be gone on with.

Everything is checked before anything is written. Then conversion.json marks the folder as unfinished, the weights come
file by file, all else behind them, and the mark goes last. Knows nothing of bytes within a file or of the terminal.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import INDEX_FILE, UNFINISHED, local_folder
from mlx_diffusion.checkpoint.headers import Stored
from mlx_diffusion.checkpoint.layout import Piece, check_complete, pieces, quantization_table, sizes
from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, Recipe
from mlx_diffusion.checkpoint.recipes import recipe as recipe_named
from mlx_diffusion.convert import shards
from mlx_diffusion.convert.card import CARD, card
from mlx_diffusion.convert.hub import open_source
from mlx_diffusion.convert.progress import Meter, Progress
from mlx_diffusion.convert.record import Record, record_of
from mlx_diffusion.convert.shards import Shard
from mlx_diffusion.convert.source import Source
from mlx_diffusion.convert.target import CONFIG, begin, check_apart, earlier_revision, errors_of, is_finished, locked
from mlx_diffusion.device import on_cpu
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.json_files import parse_json
from mlx_diffusion.whole_files import flush, write_whole

OURS = (CONFIG, INDEX_FILE, CARD, UNFINISHED)  # what a conversion writes itself instead of copying it
DOWNLOADS = ".downloads"  # in the target, for shards that are streamed
DTYPES = ("dtype", "torch_dtype")  # in config.json, for newer and for older readers
CPU_THREADS = 4
CACHE_BYTES = 64_000_000  # of freed buffers that MLX may keep


@dataclass(frozen=True)
class Result:
    """A finished conversion."""

    target: str
    source: str
    revision: str | None
    recipe: str
    total_bytes: int  # of all tensors
    parts: dict[str, int]  # the same by part of the model
    files: list[str]
    files_from_earlier: int  # how many of them an interrupted run had finished
    finished_earlier: bool  # all was there, and nothing has been written
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """A source that has been read and found whole, and what the recipe makes of it."""

    source: Source
    recipe: Recipe
    config: dict[str, Any]
    stored: list[Stored]
    made: list[Piece]
    files: list[Shard]


def convert(
    source: str | Path,
    target: str | Path,
    recipe: str = DEFAULT_RECIPE,
    *,
    rules: Sequence[str] = (),
    stream: bool = False,
    force: bool = False,
    reuse: bool = False,
    revision: str | None = None,
    report: Callable[[Progress], None] | None = None,
    command: str | None = None,
) -> Result:
    """Convert a folder or a Hub id into the folder `target`, in at most 600 MB of memory whatever the model's size.

    `rules` are of the form PATTERN=bits[,group][,mode] and go before the recipe's. With `stream`, weights of a Hub id
    are fetched one file at a time and dropped once converted. After an interruption the same call goes on; `force`
    replaces a finished output, or one that was begun differently; `reuse` takes one that this very conversion has
    finished as it is. `command` is what an unfinished folder asks for.
    Raises CheckpointError for a bad source, ConversionError for a bad target, OptionError for the recipe and rules.
    """
    began = time.monotonic()
    chosen = recipe_named(recipe).with_rules(rules)
    target = Path(os.path.expanduser(target))
    command = command or _command(source, target, recipe, rules, stream, force, revision)
    with errors_of(target):
        check_apart(source, target)
        if revision is None and local_folder(source) is None:  # the Hub's branch may have moved on since
            revision = earlier_revision(target, str(source), force)
    opened = open_source(source, revision=revision, stream_into=target / DOWNLOADS if stream else None)
    job = read(opened, chosen)
    record = _record(job, command)
    with errors_of(target):
        target.mkdir(parents=True, exist_ok=True)
        with locked(target):
            whole = {file.name for file in job.files if shards.is_whole(file, target, opened.changed(file.source))}
            finished = not force and len(whole) == len(job.files) and is_finished(target, _rest(job))
            if not finished:
                rest = sum(len(content) for _, content in _rest(job))
                whole = begin(target, opened, job.files, whole, rest, record, force)
                _write_weights(job, target, whole, report)
                _finish(job, target)
            elif not reuse:
                raise ConversionError(
                    f"{target} is finished, by this very conversion; add --verify to compare it with its source, "
                    "--upload-to to upload it, --force to convert anew"
                )
    made = sizes(job.made)
    return Result(
        str(target), opened.label, opened.revision, recipe, sum(made.values()), made,
        [file.name for file in job.files], len(whole), finished, time.monotonic() - began,
    )  # fmt: skip


def read(source: Source, recipe: Recipe) -> Job:
    """Read a source's headers and config and check that it is whole, unquantised and fit for the recipe."""
    raw = parse_json(source.read_small(CONFIG), f"{source.label}/{CONFIG}")
    config = ModelConfig.from_dict(raw, where=f"{source.label}/{CONFIG}")
    stored = source.headers()
    tensors = [entry.tensor for entry in stored]
    check_complete(tensors, config, source.label)
    made = pieces(tensors, recipe)
    return Job(source, recipe, raw, stored, made, shards.plan(stored, made))


def _command(
    source: str | Path,
    target: str | Path,
    recipe: str,
    rules: Sequence[str],
    stream: bool,
    force: bool,
    revision: str | None,
) -> str:
    """The command that does the same as this call."""
    words = ["mlx-diffusion", "convert", str(source), str(target), "--recipe", recipe]
    for rule in rules:
        words += ["--set", rule]
    words += ["--stream"] * stream + ["--force"] * force
    words += ["--revision", revision] if revision else []
    return shlex.join(words)


def _record(job: Job, command: str) -> Record:
    source = job.source
    small = [(name, source.read_small(name)) for name in [CONFIG, *copied(source)]]
    return record_of(source.label, source.revision, job.stored, small, job.recipe.name, job.made, command)


def copied(source: Source) -> list[str]:
    """The small files that go into the output as they are."""
    return [name for name in source.small_files() if name not in OURS and not name.startswith(".")]


def _write_weights(job: Job, target: Path, whole: set[str], report: Callable[[Progress], None] | None) -> None:
    total = sum(file.source_bytes for file in job.files)
    meter = Meter(total, sum(file.source_bytes for file in job.files if file.name in whole), report)
    missing = groupby((file for file in job.files if file.name not in whole), key=lambda file: file.source)
    groups = [(source, list(files)) for source, files in missing]
    following = [source for source, _ in groups[1:]]
    cache = mx.set_cache_limit(CACHE_BYTES)
    try:
        with ThreadPoolExecutor(_threads()) as threads:
            for (source, files), after in zip_longest(groups, following):
                path = job.source.fetch(source, after)
                for file in files:
                    meter.file = file.name
                    shards.write(file, path, target, threads, meter.advance)
                job.source.drop(source)
    finally:
        mx.set_cache_limit(cache)


def _threads() -> int:
    """On the CPU MLX works on one core a thread; a GPU is kept busy by one."""
    return min(CPU_THREADS, os.cpu_count() or 1) if on_cpu() else 1


def _rest(job: Job) -> Iterator[tuple[str, bytes]]:
    """Everything but the weights, by name; the config comes last."""
    yield INDEX_FILE, _json(shards.index(job.files))
    for name in copied(job.source):
        yield name, job.source.read_small(name)
    source_card = job.source.read_small(CARD) if CARD in job.source.small_files() else b""
    yield CARD, card(job.source.label, job.source.revision, source_card, job.recipe, job.made).encode()
    table = quantization_table(job.made)
    added = {} if table is None else {"quantization": table, "quantization_config": table}
    yield CONFIG, _json(_in_bf16(job.config) | added)


def _in_bf16(fields: dict[str, Any]) -> dict[str, Any]:
    """A config, its parts included, that says what the tensors are: nothing is kept in another floating type."""
    changed: dict[str, Any] = {name: _in_bf16(value) for name, value in fields.items() if isinstance(value, dict)}
    changed |= {name: "bfloat16" for name in DTYPES if isinstance(fields.get(name), str)}
    return fields | changed


def _finish(job: Job, target: Path) -> None:
    """Write everything but the weights; the mark of the unfinished goes last."""
    for name, content in _rest(job):
        write_whole(target / name, content)
    shutil.rmtree(target / DOWNLOADS, ignore_errors=True)  # there only where files were streamed
    (target / UNFINISHED).unlink()
    flush(target)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
