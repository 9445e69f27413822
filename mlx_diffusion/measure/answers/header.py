"""The head of a file of results, which says what was measured: the model, and the plan of the evaluation.

Checked as it is read, since tables and pages are made of what it says. Knows nothing of results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.typed_json import from_json

HEADER = ("model", "checkpoint", "canvas_length", "device", "plan")


@dataclass(frozen=True)
class _Way:
    label: str
    mode: str
    options: Mapping[str, float]


@dataclass(frozen=True)
class _Family:
    prompts: int
    digest: str


@dataclass(frozen=True)
class _Plan:
    ways: tuple[_Way, ...]
    families: Mapping[str, _Family]
    seed: int
    max_tokens: int
    batch_size: int


@dataclass(frozen=True)
class _Header:
    model: str
    checkpoint: str
    canvas_length: int
    device: str
    plan: _Plan


def read_header(content: Mapping[str, Any]) -> dict[str, Any]:
    """The head of what a file of results holds, as it stands there. Raises ValueError."""
    found = {name: content[name] for name in HEADER if name in content}
    header = from_json(_Header, found)
    plan = header.plan
    counts = [header.canvas_length, plan.max_tokens, plan.batch_size, len(plan.ways), len(plan.families)]
    if min([*counts, *(family.prompts for family in plan.families.values())]) < 1 or plan.seed < 0:
        raise ValueError("a count of the plan is too small")
    labels = [way.label for way in plan.ways]
    if len(set(labels)) < len(labels):
        raise ValueError("two ways have the same label")
    for text in (header.model, header.checkpoint, header.device, *labels, *plan.families, *_words(plan)):
        text.encode()  # it goes into UTF-8; the error is a ValueError
    return found


def _words(plan: _Plan) -> list[str]:
    return [word for way in plan.ways for word in (way.mode, *way.options)]
