"""made_from.json: the source of a finished conversion, for a later run that verifies or uploads it.

Folders converted by earlier versions lack this file, or the digests in it. Knows nothing of how a conversion works.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mlx_diffusion.checkpoint.recipes import Recipe, rule_text
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.json_files import read_json

ORIGIN = "made_from.json"


@dataclass(frozen=True)
class Origin:
    """The source of a conversion, its commit if it came from the Hub, and the recipe with the user's own rules."""

    source: str
    revision: str | None
    recipe: str
    rules: Sequence[str]
    sources: Mapping[str, str] = field(default_factory=dict)  # file of the output -> digest of what it is made from

    @classmethod
    def of(cls, label: str, revision: str | None, recipe: Recipe) -> Origin:
        return cls(label, revision, recipe.name, [rule_text(rule) for rule in recipe.own])

    def content(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    def is_that_of(self, folder: Path) -> bool:
        """True if a finished folder says that it is of this origin, whatever digests it has."""
        try:
            facts = read_json(folder / ORIGIN)
        except CheckpointError:
            return False
        return facts | {"sources": {}} == asdict(replace(self, sources={}))


def revision_of(folder: Path, source: str) -> str | None:
    """The commit of `source` that a finished folder was made from; None where the folder does not say."""
    try:
        facts = read_json(folder / ORIGIN)
    except CheckpointError:
        return None
    revision = facts.get("revision")
    return revision if facts.get("source") == source and isinstance(revision, str) else None


def sources_of(folder: Path) -> dict[str, str]:
    """The digest of what each weight file of a finished folder was made from; empty where the folder does not say."""
    try:
        sources = read_json(folder / ORIGIN).get("sources")
    except CheckpointError:
        return {}
    return {name: str(digest) for name, digest in sources.items()} if isinstance(sources, dict) else {}
