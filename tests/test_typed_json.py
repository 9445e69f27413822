"""Dataclasses from JSON: what fits is taken, and what does not is named by its place."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from mlx_diffusion.typed_json import from_json


@dataclass(frozen=True)
class Inner:
    share: float
    pair: tuple[int, bool] = (0, False)


@dataclass(frozen=True)
class Outer:
    name: str
    inners: tuple[Inner, ...]
    by_name: Mapping[str, int]
    words: Sequence[str] | None = None


WHOLE = Outer("n", (Inner(0.5, (1, True)), Inner(2.0)), {"a": 1}, ["x"])


def test_what_was_written_is_read() -> None:
    assert from_json(Outer, json.loads(json.dumps(asdict(WHOLE)))) == WHOLE
    assert from_json(Outer, {"name": "n", "inners": [{"share": 1}], "by_name": {}, "words": None}) == Outer(
        "n", (Inner(1.0),), {}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 5}, "name is 5, not text"),
        ({"name": "x" * 10 + "y", "inners": "x" * 100}, r"inners is 'x{39}…, not a list"),
        ({"inners": [{"share": True}]}, r"inners\[0\]\.share is True, not a finite number"),
        ({"inners": [{"share": 10**400}]}, r"inners\[0\]\.share is 1000"),
        ({"inners": [{"share": 1, "pair": [1]}]}, r"inners\[0\]\.pair is \[1\], not a list of 2"),
        ({"inners": [{"share": 1, "pair": [1.0, True]}]}, r"inners\[0\]\.pair\[0\] is 1\.0, not a whole number"),
        ({"inners": [{}]}, r"inners\[0\]\.share is missing"),
        ({"by_name": {"a": 2**53}}, r"by_name\.a is 9007199254740992, not a whole number"),
        ({"words": {}}, "words is {}, not a list"),
        ({"more": 1}, "more is not known"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Outer, {**json.loads(json.dumps(asdict(WHOLE))), **change})
