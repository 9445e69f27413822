"""The fingerprint of a checkpoint, which tells it from a retrained one under the same name.

All bytes count, those of the weights too, so that 20 GB take about ten seconds. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path

from mlx_diffusion.checkpoint.weight_files import weight_files

SMALL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
# Records of earlier versions name checkpoints by a sample of their weights, which others may share. Of these all bytes
# are known, so that such a record of theirs still counts.
EARLIER: Mapping[str, str] = {"b21868d47bafae0d3f8254f5e5b45589": "8bb855fd6132825c"}  # the first bundled one


def fingerprint(folder: Path) -> str:
    """The fingerprint of the checkpoint in a folder."""
    found = digest(folder)
    return EARLIER.get(found, found)


def digest(folder: Path) -> str:
    """A digest of all bytes of a checkpoint's files, with their names."""
    found = sha256()
    for file in (*(folder / name for name in SMALL_FILES if (folder / name).is_file()), *weight_files(folder)):
        with file.open("rb") as stream:
            found.update(f"{file.name} {file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()[:32]
