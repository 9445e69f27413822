"""Valid files made wrong in structured ways: values of other kinds and sizes, parts moved, doubled, cut off or lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

# What stands where something else is expected.
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 64, 2**31 - 1, 2**31, 2**53, 2**63, 10**400, -(10**400), 0.5, -0.0, 1e-30, 1e300,
    float("inf"), float("nan"), "", "0", "a", "\0", "\ud800", "ü\n\x1b[2J", "../x", "/dev/zero", "x" * 5000, "9" * 5000,
    [], [[]], [None], ["a", 1], {}, {"": {}}, {"a": []}, [0] * 2000,
)  # fmt: skip
HOW = ("replace", "replace", "replace", "remove", "rename", "double", "wrap", "swap", "deep")


class Change(NamedTuple):
    """One change: of which part (counted round), how, and by what."""

    place: int
    how: str
    odd: Any


def changes(most: int = 3) -> st.SearchStrategy[list[Change]]:
    """A few changes, to be made one after the other."""
    one = st.builds(Change, st.integers(0, 10**6), st.sampled_from(HOW), st.sampled_from(ODD))
    return st.lists(one, min_size=1, max_size=most)


def changed_json(value: Any, wanted: Sequence[Change]) -> Any:
    """A copy of what JSON holds, changed."""
    top = [copy.deepcopy(value)]
    for change in wanted:
        places = _places(top)
        holder, key = places[change.place % len(places)]
        _change(holder, key, change, places)
    return top[0] if top else None


def _places(top: Any) -> list[tuple[Any, Any]]:
    """Every part below `top`, as what holds it and its key there."""
    found: list[tuple[Any, Any]] = []
    waiting = [top]
    while waiting:
        holder = waiting.pop(0)
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found or [([None], 0)]


def _change(holder: Any, key: Any, change: Change, places: list[tuple[Any, Any]]) -> None:
    odd = copy.deepcopy(change.odd)
    if change.how == "remove":
        del holder[key]
    elif change.how == "rename" and isinstance(holder, dict):
        holder[str(odd)[:50]] = holder.pop(key)
    elif change.how == "double" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif change.how == "wrap":
        holder[key] = [holder[key]]
    elif change.how == "swap":
        other, place = places[(change.place * 7 + 1) % len(places)]
        holder[key] = copy.deepcopy(other[place])
    elif change.how == "deep":
        for _ in range(150):
            holder[key] = [holder[key]]
    else:
        holder[key] = odd


def json_text(value: Any) -> bytes:
    """As a file holds it, with numbers and half characters that JSON does not have."""
    return json.dumps(value).encode()


def changed_bytes(content: bytes, wanted: Sequence[Change], pool: Sequence[bytes] = ()) -> bytes:
    """A copy of a file's content, cut, doubled, or with parts of `pool` or odd bytes in it."""
    pieces = [*pool, b"\0" * 8, b"\xff" * 8, b"", b"\n", b"{", b"[" * 2000, b"\xed\xa0\x80"]
    for change in wanted:
        at = change.place % (len(content) + 1)
        piece = pieces[(change.place // 7) % len(pieces)]
        cuts: dict[str, Callable[[bytes], bytes]] = {
            "remove": lambda old, at=at: old[:at],  # type: ignore[misc]
            "double": lambda old, at=at: old[:at] + old[at // 2 :],  # type: ignore[misc]
            "swap": lambda old, at=at: old[at:] + old[:at],  # type: ignore[misc]
            "rename": lambda old, at=at: old[:at] + old[at + 5 :],  # type: ignore[misc]
            "wrap": lambda old, at=at, piece=piece: old[:at] + piece + old[at:],  # type: ignore[misc]
        }
        put = cuts.get(change.how, lambda old, at=at, piece=piece: old[:at] + piece + old[at + len(piece) :])
        content = put(content)
    return content


def changed_header(content: bytes, wanted: Sequence[Change]) -> bytes:
    """A safetensors file with a changed header, whose length fits."""
    length = int.from_bytes(content[:8], "little")
    header = json_text(changed_json(json.loads(content[8 : 8 + length]), wanted))
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
