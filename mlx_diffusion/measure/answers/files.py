"""Files that appear whole or not at all. Knows nothing of what they hold."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_diffusion.errors import EvaluationError


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that at any moment either the old or the new content is there. Raises `EvaluationError`."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise EvaluationError(f"{file} cannot be written ({error.strerror}); choose another place") from None
