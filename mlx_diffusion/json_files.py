"""JSON files that hold one object, with errors of one line. Knows nothing of which fields there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import CheckpointError


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read as JSON ({error}); download the file again") from None
    return parse_json(content, str(file))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The object in a JSON file's bytes; `where` names the file in errors. Raises CheckpointError."""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{where} cannot be read as JSON ({reason}); download the file again") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{where} holds no JSON object; download the file again")
    return table
