"""The fingerprint of a checkpoint, which tells it from a retrained one under the same name.

Reads the small files whole and a few places of each weight file, so that 50 GB take no time. Knows nothing of models.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from mlx_diffusion.checkpoint.folder import weight_files

SMALL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja")
PLACES, PLACE_BYTES = 16, 65536


def fingerprint(folder: Path) -> str:
    """The fingerprint of the checkpoint in a folder. Of its weights only `PLACES` places a file are read."""
    found = blake2b(digest_size=8)
    for name in SMALL_FILES:
        if (folder / name).is_file():
            found.update(name.encode() + (folder / name).read_bytes())
    for file in weight_files(folder):
        size = file.stat().st_size
        found.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            for place in range(PLACES):
                stream.seek(size * place // PLACES)
                found.update(stream.read(PLACE_BYTES))
    return found.hexdigest()
