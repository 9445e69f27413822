"""The patterns that a schema asks of one value, by `allOf` and references: llguidance compares each with all others.

Its time for that doubles with every pattern. Knows nothing of how patterns are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mlx_diffusion.errors import OptionError

MOST = 12  # patterns of one value
MOST_PLACES = 20_000  # looked at, of a schema

Place = tuple[str, ...]


def check_joined(schema: Any, where: str) -> None:
    """Raise OptionError where too many patterns are asked of one value; schema is what JSON says."""
    asked = _Asked(schema)
    asked.of(schema)
    if asked.most > MOST:
        raise OptionError(
            f"constraint {where} asks {asked.most} patterns, formats or lengths of one value, by 'allOf' or '$ref'; "
            f"there may be {MOST}"
        )
    if asked.places > MOST_PLACES:
        raise OptionError(f"constraint {where} joins too many schemas by 'allOf' and '$ref'; join fewer")


class _Asked:
    """Walks through a schema, into what it refers to as well."""

    def __init__(self, root: Any) -> None:
        self._root, self._within = root, set[str]()
        self._known: dict[str, Counter[Place]] = {}  # by references
        self.most = self.places = 0

    def of(self, schema: Any) -> Counter[Place]:
        """How many patterns are asked of each value, by the names that lead to it."""
        found: Counter[Place] = Counter()
        self.places += 1
        if not isinstance(schema, Mapping) or self.places > MOST_PLACES:
            return found
        found[()] = len({"pattern", "format", "minLength", "maxLength"} & schema.keys())
        for branch in _listed(schema, "allOf"):
            found += self.of(branch)
        for keyword in ("anyOf", "oneOf"):
            options: Counter[Place] = Counter()
            for branch in _listed(schema, keyword):
                options |= self.of(branch)
            found += options
        if isinstance(schema.get("$ref"), str):
            found += self._referred(schema["$ref"])
        named = schema.get("properties")
        for name, one in named.items() if isinstance(named, Mapping) else ():
            found += Counter({(name, *place): count for place, count in self.of(one).items()})
        if "items" in schema:
            found += Counter({("[]", *place): count for place, count in self.of(schema["items"]).items()})
        self.most = max(self.most, *found.values(), 0)
        self.places += len(found)
        return found

    def _referred(self, reference: str) -> Counter[Place]:
        if reference in self._within:
            return Counter()  # which leads into itself
        if reference not in self._known:
            self._within.add(reference)
            self._known[reference] = self.of(pointed(self._root, reference))
            self._within.remove(reference)
        return self._known[reference]


def pointed(root: Any, reference: str) -> Any:
    """What a reference within a schema points to; None where nothing is."""
    found = root if reference.startswith("#") else None
    for step in reference.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _listed(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    branches = schema.get(keyword)
    return branches if isinstance(branches, list) else []
