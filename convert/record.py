"""conversion.json: the conversion at work on a folder, so that the same one can continue and no other does.

Its presence marks the folder as unfinished. Knows nothing of how a conversion works.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

from mlx_diffusion import __version__
from mlx_diffusion.checkpoint.folder import UNFINISHED
from mlx_diffusion.checkpoint.headers import StoredTensor
from mlx_diffusion.checkpoint.pieces import Piece
from mlx_diffusion.errors import CheckpointError, ConversionError
from mlx_diffusion.json_files import read_json
from mlx_diffusion.whole_files import write_whole


@dataclass(frozen=True)
class ConversionRecord:
    """All that decides the bytes of the output, and the command that continues the conversion."""

    source: str
    revision: str | None
    contents: str  # digest of the source's tensors, by name, type, shape and place, and of its small files
    recipe: str
    formats: str  # digest of every tensor's format, as the recipe and the user's rules have it
    mlx_diffusion: str
    mlx: str
    command: str
    sources: Mapping[str, str] = field(default_factory=dict)  # file of the output -> digest of what it is made from

    @classmethod
    def read(cls, folder: Path) -> ConversionRecord | None:
        """The record in a folder, or None where there is none."""
        file = folder / UNFINISHED
        if not file.exists():
            return None
        try:
            record = cls(**read_json(file))
            texts = {**asdict(record), "revision": record.revision or ""}
            sources = texts.pop("sources")
            if not all(isinstance(text, str) for text in (*texts.values(), *sources.keys(), *sources.values())):
                raise TypeError
            return record
        except (CheckpointError, TypeError, AttributeError):
            raise ConversionError(f"{file} cannot be read; give force=True to start anew") from None

    def write(self, folder: Path) -> None:
        write_whole(folder / UNFINISHED, (json.dumps(asdict(self), indent=2) + "\n").encode())

    def difference(self, earlier: ConversionRecord) -> str | None:
        """In words, the first difference for which this conversion cannot continue an earlier one; None if it can."""
        names = {"contents": "the source's files", "formats": "the recipe with its rules"}
        for one in fields(self):
            now, then = getattr(self, one.name), getattr(earlier, one.name)
            if one.name in ("command", "sources") or now == then:
                continue
            if one.name in names:
                return f"{names[one.name]} are not those that it was begun with"
            return f"{one.name} is {now}, it was begun with {then}"
        return None


def record_of(
    label: str,
    revision: str | None,
    stored: Iterable[StoredTensor],
    small: Iterable[tuple[str, bytes]],
    recipe: str,
    made: Iterable[Piece],
    command: str,
) -> ConversionRecord:
    """The record of a conversion by this version of the library, on this version of MLX."""
    contents = hashlib.sha256()
    for entry in stored:
        contents.update(repr((entry.file, entry.offset, entry.tensor)).encode())
    for name, content in small:
        contents.update(repr((name, hashlib.sha256(content).hexdigest())).encode())
    specs = [(piece.module, piece.spec, *_fitted(piece)) for piece in made]
    formats = hashlib.sha256(repr(specs).encode())
    return ConversionRecord(
        label, revision, contents.hexdigest(), recipe, formats.hexdigest(), __version__, version("mlx"), command
    )


def _fitted(piece: Piece) -> tuple[str, ...]:
    return ("fitted",) if piece.spec is not None and piece.spec.fitted else ()
