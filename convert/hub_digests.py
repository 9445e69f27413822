"""The Hub's own digests of a repository's files, and the check of a file on disk, in all its bytes, against them.

A digest of 64 digits is the SHA-256 of a large file, one of 40 digits is what git calls a small file's content. The
Hub's cache names its files by them. Knows nothing of what the files hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from hashlib import sha1, sha256
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_diffusion.convert.large_files import uncached
from mlx_diffusion.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
BLOCK_BYTES = 1 << 20


def digests_of(files: Iterable[RepoSibling]) -> dict[str, str]:
    """The digest of each file by its name, where the Hub has one."""
    known = {file.rfilename: file.lfs.sha256 if file.lfs is not None else file.blob_id for file in files}
    return {name: digest for name, digest in known.items() if digest is not None}


def digest_in_cache(path: Path) -> str | None:
    """The digest of a file in the Hub's cache, where it is a link to the content that is kept under that name."""
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if DIGEST.fullmatch(name) else None


def check_content(path: Path, digest: str | None, where: str, remedy: str) -> None:
    """Read a whole file and refuse it if it has another digest; without one, it is taken. Raises CheckpointError."""
    if digest is None:
        return
    try:
        with FileIO(path) as stream:
            uncached(stream.fileno())
            begin = b"" if len(digest) == 64 else f"blob {path.stat().st_size}\0".encode()
            found = sha256(begin) if len(digest) == 64 else sha1(begin, usedforsecurity=False)
            while block := stream.read(BLOCK_BYTES):
                found.update(block)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    if found.hexdigest() != digest:
        raise CheckpointError(f"{where} is damaged: its bytes are not those of the Hub's file; {remedy}")
