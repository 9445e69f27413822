"""JSON files that hold one object, with errors of one line. Knows nothing of which fields there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.regular_files import read_regular

MOST_BYTES = 16_000_000  # the published index of weights, which is the largest of these files, has 0.1 MB
DEEPEST = 100  # lists and objects within each other


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError."""
    try:
        content = read_regular(file, MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read as JSON ({error.strerror}); download the file again") from None
    return parse_json(content, str(file))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The object in a JSON file's bytes; `where` names the file in errors. Raises CheckpointError."""
    try:
        table = bounded_json(content)
    except ValueError as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{where} cannot be read as JSON ({reason}); download the file again") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{where} holds no JSON object; download the file again")
    return table


def bounded_json(content: bytes | str) -> Any:
    """What JSON says that goes at most `DEEPEST` deep: who walks through it, or writes it again, needs no more stack.

    Raises ValueError for all else.
    """
    too_deep = ValueError(f"it goes more than {DEEPEST} levels deep")
    try:
        value = json.loads(content)
    except RecursionError:
        raise too_deep from None
    level = [value]
    for _ in range(DEEPEST):
        level = [part for whole in level if isinstance(whole, dict | list) for part in _parts(whole)]
        if not level:
            return value
    raise too_deep


def _parts(whole: dict[str, Any] | list[Any]) -> list[Any]:
    return list(whole.values()) if isinstance(whole, dict) else whole
