"""Fetches source files when an output file needs them, and drops them when none will any more.

Knows nothing of where they come from or of what is made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from mlx_diffusion.convert.source import Source

FILES_AHEAD = 2  # files that are there, or on their way, at once; more only where one output file needs more


def fetched(source: Source, needed: Sequence[Sequence[str]]) -> Iterator[Mapping[str, Path]]:
    """The paths of the source files for each output file in turn; `needed` has their names.

    The next file is fetched while only one is there.
    """
    held: dict[str, Path] = {}
    coming = None
    for number, names in enumerate(needed):
        later = list(dict.fromkeys(chain(*needed[number + 1 :])))
        for name in [held_name for held_name in held if held_name not in names and held_name not in later]:
            del held[name]
            source.drop(name)
        missing = [name for name in names if name not in held]
        ahead = [name for name in later if name not in held and name not in names]
        after = ahead[0] if ahead and len({*held, *names}) < FILES_AHEAD else None
        for name in missing[:-1]:
            held[name] = source.fetch(name)
        if missing or (after and after != coming):
            last = (missing or list(names))[-1]
            held[last] = source.fetch(last, after)
            coming = after
        yield {name: held[name] for name in names}
    for name in held:
        source.drop(name)


def most_at_once(needed: Sequence[Sequence[str]]) -> int:
    """The most files that are there at once."""
    most = FILES_AHEAD
    for number, names in enumerate(needed):
        earlier, later = set(chain(*needed[:number])), set(chain(*needed[number + 1 :]))
        most = max(most, len({*names} | (earlier & later)))
    return most
