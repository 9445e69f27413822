"""All that a source says before its weights are read: config, headers and small files, checked as loading checks them.

Knows nothing of recipes or of what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.checkpoint.beside import generation_defaults
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import CONFIG_FILE
from mlx_diffusion.checkpoint.headers import StoredTensor
from mlx_diffusion.checkpoint.stored import SourceTensor
from mlx_diffusion.checkpoint.text_tensors import check_complete
from mlx_diffusion.checkpoint.weight_files import INDEX_FILE
from mlx_diffusion.convert.source import Source
from mlx_diffusion.convert.tokenizer_trial import VOCABULARIES, try_tokenizer
from mlx_diffusion.json_files import parse_json


@dataclass(frozen=True)
class Inspection:
    """A source that is whole and can be loaded once it is converted, as far as can be said without its weights."""

    source: Source
    content: bytes  # of config.json
    raw: dict[str, Any]  # the same as JSON
    stamps: Mapping[str, tuple[int, ...] | None]  # a weight file -> its state before it was read, see `Source.stamp`
    stored: Sequence[StoredTensor]
    tensors: Sequence[SourceTensor]
    small: Mapping[str, bytes]  # the files that are copied, and the card
    notes: tuple[str, ...]  # for the user


def inspect(source: Source) -> Inspection:
    """Read a source's small files and headers. Raises CheckpointError for what is no checkpoint, or not whole."""
    content, raw, config = read_config(source)
    stamps = {name: source.stamp(name) for name in source.shards()}
    stored = source.headers()
    tensors = source.tensors(raw, config)
    check_complete([one.tensor for one in tensors], config, source.label)
    small = read_checked(source, source.small_files(), content, config)
    notes = [source.note(raw, tensors)]
    if not any(name in small for name in VOCABULARIES):
        notes.append(f"{source.label} has no {' or '.join(VOCABULARIES)}; the output cannot be loaded until it has one")
    return Inspection(source, content, raw, stamps, stored, tensors, small, tuple(filter(None, notes)))


def read_config(source: Source) -> tuple[bytes, dict[str, Any], ModelConfig]:
    """A source's config.json as bytes, as JSON, and as the facts of its model. Raises CheckpointError."""
    where = f"{source.label}/{CONFIG_FILE}"
    content = source.read_small(CONFIG_FILE)
    raw = parse_json(content, where)
    return content, raw, ModelConfig.from_dict(raw, where=where)


def read_checked(source: Source, names: Iterable[str], content: bytes, config: ModelConfig) -> dict[str, bytes]:
    """Small files of a source beside config.json, whose `content` is given, once loading would refuse none of them."""
    small = {name: source.read_small(name) for name in names if name not in (CONFIG_FILE, INDEX_FILE)}
    with source.laid_out(small | {CONFIG_FILE: content}) as folder:
        generation_defaults(folder, config)
        if any(file in small for file in VOCABULARIES):
            try_tokenizer(folder)
    return small
