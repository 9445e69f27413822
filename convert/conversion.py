"""Converts a checkpoint on the Hub or in a folder into another folder, in three steps: plan, write, finish.

Everything is checked before anything is written. Then conversion.json marks the folder as unfinished, the weights are
written file by file, then all other files, and last the mark is removed. So the same call continues a conversion
that was interrupted, by whatever. Knows nothing of bytes within a file or of the terminal.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_diffusion.checkpoint.folder import UNFINISHED, local_folder
from mlx_diffusion.checkpoint.recipe_files import find_recipe
from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, Recipe
from mlx_diffusion.convert.command_line import command_line
from mlx_diffusion.convert.fetching import fetched, most_at_once
from mlx_diffusion.convert.gguf_source import gguf_file, with_tokenizer
from mlx_diffusion.convert.hub import open_source
from mlx_diffusion.convert.inspection import Inspection, inspect
from mlx_diffusion.convert.origin import ORIGIN
from mlx_diffusion.convert.plan import ConversionPlan, plan_conversion
from mlx_diffusion.convert.progress import Meter, Progress
from mlx_diffusion.convert.same_source import check_source, check_unchanged, kept_files
from mlx_diffusion.convert.shards import Shard, whole_files, write_shard
from mlx_diffusion.convert.source import Source
from mlx_diffusion.convert.space import check_space
from mlx_diffusion.convert.target import (
    begin,
    check_apart,
    earlier_revision,
    errors_of,
    is_finished,
    locked,
    outdated_files,
    to_continue,
)
from mlx_diffusion.device import on_cpu
from mlx_diffusion.errors import ConversionError
from mlx_diffusion.whole_files import flush, write_whole

DOWNLOADS = ".downloads"  # in the target, for weight files that are streamed
CPU_THREADS = 4
DIGEST_LENGTH = 64  # characters of a digest in made_from.json
FINISHED = (
    "{} is finished, by this very conversion; take verify() to compare it with its source, upload() to upload it, "
    "force=True to convert anew"
)
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


def convert(
    source: str | Path,
    target: str | Path,
    recipe: str = DEFAULT_RECIPE,
    *,
    budget: int | None = None,
    rules: Sequence[str] = (),
    stream: bool = False,
    force: bool = False,
    reuse: bool = False,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    report: Callable[[Progress], None] | None = None,
    measuring: Callable[[float, str], None] = lambda share, label: None,
    command: str | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> Result:
    """Convert a folder, a GGUF or a Hub id into the folder `target`, in at most 600 MB of memory whatever its size.

    `recipe` is a name or a recipe's file; with a `budget`, in bytes, it is the one that loses least in it (see
    `budget`), measured on the source first: `measuring` is told the share that is done. `rules` have the form
    PATTERN=bits[,group][,mode][,fitted] and go before the recipe's. With `stream`, the weight files of a Hub id are
    fetched one at a time and dropped once converted; `tokenizer` is a folder whose tokenizer goes before a GGUF's own.
    After an interruption the same call continues; `force` replaces an output that is finished or was begun differently;
    `reuse` accepts one that this very conversion has finished. `command` is shown to who finds the folder unfinished,
    `warn` is told what could not be checked. Raises CheckpointError, and ConversionError or OptionError for arguments.
    """
    began = time.monotonic()
    chosen = find_recipe(recipe).with_rules(rules)
    beside = {"revision": revision, "tokenizer": None if tokenizer is None else str(tokenizer)}
    command = command or command_line(
        str(source), str(target), None if budget else recipe, rules, stream=stream, force=force, budget=budget, **beside
    )
    target, gguf = Path(os.path.expanduser(target)), gguf_file(source)
    folder = local_folder(source) if gguf is None else None
    with errors_of(target):
        check_apart(folder, target)
        if revision is None and folder is gguf is None:  # the Hub's branch may have new commits since
            revision = earlier_revision(target, str(source), force)
    found = inspect(_opened(source, target, tokenizer, revision, stream))
    if budget:
        chosen = _within(budget, found, measuring, stream, rules)
    plan = plan_conversion(found, chosen, command)
    for note in found.notes:
        warn(note)
    with errors_of(target):
        target.mkdir(parents=True, exist_ok=True)
        with locked(target, warn):
            whole = whole_files(plan.shards, target, plan.changed)
            complete = not force and len(whole) == len(plan.shards)
            finished = complete and is_finished(target, plan.side_files, plan.origin)
            if finished and not reuse:
                raise ConversionError(FINISHED.format(target))
            if finished:
                check_source(plan, found.source, target, warn)
            kept = whole if finished else _carry_out(plan, found.source, whole, target, force, report, warn)
    return Result(
        str(target), plan.record.source, plan.record.revision, chosen.name, sum(plan.part_bytes.values()),
        plan.part_bytes, [shard.name for shard in plan.shards], len(kept), finished, time.monotonic() - began,
    )  # fmt: skip


def _opened(
    source: str | Path, target: Path, tokenizer: str | Path | None, revision: str | None, stream: bool
) -> Source:
    if tokenizer is not None:
        return with_tokenizer(source, tokenizer, revision)
    return open_source(source, revision=revision, stream_into=target / DOWNLOADS if stream else None)


def _within(
    budget: int, found: Inspection, tell: Callable[[float, str], None], stream: bool, rules: Sequence[str]
) -> Recipe:
    from mlx_diffusion.convert.budget import recipe_within  # what it measures with takes a second to import

    return recipe_within(budget, found, tell, stream=stream, rules=rules)


def _carry_out(
    plan: ConversionPlan,
    source: Source,
    whole: set[str],
    target: Path,
    force: bool,
    report: Callable[[Progress], None] | None,
    warn: Callable[[str], None],
) -> set[str]:
    """Mark the folder, write what is missing, finish; returns the weight files kept from an interrupted run."""
    earlier = to_continue(target, plan.record, force)
    noted = {} if earlier is None else dict(earlier.sources)
    kept = set() if earlier is None else kept_files(plan, source, whole, noted)
    noted = {name: digest for name, digest in noted.items() if name in kept}
    missing = [shard for shard in plan.shards if shard.name not in kept]
    needed_files = [shard.sources for shard in missing]

    outdated = outdated_files(target, earlier is not None, kept)
    in_full = replace(plan.origin, sources={shard.name: "0" * DIGEST_LENGTH for shard in plan.shards})
    beside = sum(map(len, [*plan.side_files.values(), in_full.content()]))
    needed = sum(shard.nbytes for shard in missing) + beside
    downloads = source.download_bytes(list(dict.fromkeys(chain(*needed_files))), most_at_once(needed_files))
    check_space(target, needed, downloads, outdated, warn)
    begin(target, replace(plan.record, sources=noted), outdated, earlier is not None)

    def note(shard: Shard, digest: str) -> None:
        """Keep the digest of a file's source before the file is there: a file without one is made anew."""
        check_unchanged(plan, source, shard.sources)
        noted[shard.name] = digest
        replace(plan.record, sources=dict(sorted(noted.items()))).write(target)

    total, rest = (sum(shard.source_bytes for shard in some) for some in (plan.shards, missing))
    _write_weights(missing, fetched(source, needed_files), target, Meter(total, total - rest, report), note)
    check_unchanged(plan, source, plan.stamps)
    origin = replace(plan.origin, sources=dict(sorted(noted.items())))
    *others, config = plan.side_files.items()
    _finish(target, dict([*others, (ORIGIN, origin.content()), config]), plan.changed)
    return kept


def _write_weights(
    missing: Iterable[Shard],
    sources: Iterable[Mapping[str, Path]],
    target: Path,
    meter: Meter,
    note: Callable[[Shard, str], None],
) -> None:
    """Write weight files, each from its source files; `note` is told what it is made of."""
    cache = mx.set_cache_limit(CACHE_BYTES)
    try:
        with ThreadPoolExecutor(_threads()) as threads:
            for shard, paths in zip(missing, sources, strict=True):
                meter.file = shard.name
                write_shard(shard, paths, target, threads, meter.advance, partial(note, shard))
    finally:
        mx.set_cache_limit(cache)


def _threads() -> int:
    """Threads to work in: on a CPU, MLX uses one core in each; one keeps a GPU busy."""
    return min(CPU_THREADS, os.cpu_count() or 1) if on_cpu() else 1


def _finish(target: Path, side_files: Mapping[str, bytes], sources: Iterable[str]) -> None:
    """Write all but the weights and remove the `sources` that were streamed; the mark of the unfinished goes last."""
    for name, content in side_files.items():
        (target / name).parent.mkdir(exist_ok=True)
        write_whole(target / name, content)
    _remove_downloads(target / DOWNLOADS, sources)
    (target / UNFINISHED).unlink()
    flush(target)


def _remove_downloads(folder: Path, sources: Iterable[str]) -> None:
    """Remove streamed files, what huggingface_hub keeps beside them, and the folder unless it holds something else."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for name in sources:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / ".cache" / "huggingface", ignore_errors=True)
    with suppress(OSError):
        (folder / ".cache").rmdir()
    with suppress(OSError):
        folder.rmdir()
