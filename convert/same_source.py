"""The identity of a conversion's source: digests of all bytes that an output was made from, and of those there now.

A source whose commit on the Hub fixes its content is not read again. Knows nothing of how files are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlx_diffusion.convert.origin import sources_of
from mlx_diffusion.convert.plan import ConversionPlan
from mlx_diffusion.convert.shards import Shard, source_digest
from mlx_diffusion.convert.source import Source
from mlx_diffusion.errors import CheckpointError, ConversionError

READERS = 4  # threads


def check_source(
    plan: ConversionPlan,
    source: Source,
    target: Path,
    warn: Callable[[str], None],
) -> None:
    """Refuse a finished output whose source has other contents by now."""
    noted = sources_of(target)
    changeable = [shard for shard in plan.shards if _may_change(plan, shard)]
    if changeable and not noted:
        warn(f"{target} does not say which contents of its source it was made from; verify() compares them")
        return
    same = _made_from_this(changeable, noted, source)
    other = [shard.sources[-1] for shard in changeable if shard.name not in same]
    if other:
        raise ConversionError(
            f"{target} was made from other contents of {plan.record.source}, whose {other[0]} has changed since; give "
            "force=True to convert anew"
        )


def _made_from_this(shards: Iterable[Shard], noted: Mapping[str, str], source: Source) -> set[str]:
    """The names of those files whose source has, in all its bytes, the digest noted for them."""
    same = set()
    with ThreadPoolExecutor(READERS) as threads:
        for shard in shards:
            if shard.name in noted:
                found = source_digest(shard, {name: source.fetch(name) for name in shard.sources}, threads)
                same |= {shard.name} if found == noted[shard.name] else set()
    return same


def kept_files(plan: ConversionPlan, source: Source, whole: set[str], noted: Mapping[str, str]) -> set[str]:
    """The files of an interrupted run that equal what would be written now."""
    shards = [shard for shard in plan.shards if shard.name in whole]
    fixed = {shard.name for shard in shards if not _may_change(plan, shard)}
    return fixed | _made_from_this([shard for shard in shards if shard.name not in fixed], noted, source)


def _may_change(plan: ConversionPlan, shard: Shard) -> bool:
    return any(plan.changed[name] is not None for name in shard.sources)


def check_unchanged(plan: ConversionPlan, source: Source, names: Iterable[str]) -> None:
    """Refuse a source that was written to since the conversion was planned."""
    for name in names:
        if source.stamp(name) != plan.stamps[name]:
            raise CheckpointError(
                f"{plan.record.source}/{name} was changed while it was read; once it is whole, the same call goes on"
            )
