"""made_from.json: the source of a finished conversion, for a later run that verifies or uploads it.

Folders converted by earlier versions lack this file, so their commit is unknown. Knows nothing of how a conversion
works.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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

    @classmethod
    def of(cls, label: str, revision: str | None, recipe: Recipe) -> Origin:
        return cls(label, revision, recipe.name, [rule_text(rule) for rule in recipe.own])

    def content(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def revision_of(folder: Path, source: str) -> str | None:
    """The commit of `source` that a finished folder was made from; None where the folder does not say."""
    try:
        facts = read_json(folder / ORIGIN)
    except CheckpointError:
        return None
    revision = facts.get("revision")
    return revision if facts.get("source") == source and isinstance(revision, str) else None
