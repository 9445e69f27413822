"""A GGUF file, or the parts of one, as the source of a conversion.

Its config and tokenizer are made from its metadata, as the files that the Hub's own checkpoint has beside its weights.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np

from mlx_diffusion.checkpoint.beside import DEFAULTS
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.folder import CONFIG_FILE
from mlx_diffusion.checkpoint.headers import StoredTensor, Tensor
from mlx_diffusion.checkpoint.stored import Component, RowBlock, SourceTensor
from mlx_diffusion.checkpoint.text_tensors import FLOATING
from mlx_diffusion.convert.ggml import GgmlBlocks, check_unpacked
from mlx_diffusion.convert.gguf_config import GgufFacts, config_json, generation_config_json
from mlx_diffusion.convert.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from mlx_diffusion.convert.gguf_names import ROPE, hub_name
from mlx_diffusion.convert.gguf_tokenizer import tokenizer_files
from mlx_diffusion.convert.known_files import is_of_tokenizer
from mlx_diffusion.convert.source import LocalSource
from mlx_diffusion.errors import CheckpointError, OptionError

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
EMBEDDINGS = "token_embd.weight"
PUBLISHED_ROTATED = 0.25  # of a head in full layers, in the only model of this architecture


def gguf_file(path_or_id: str | Path) -> Path | None:
    """The GGUF that a path stands for: the file itself, or the only one in a folder without other weights."""
    path = Path(path_or_id).expanduser()
    if path.suffix.lower() == ".gguf" and path.exists() and not path.is_dir():
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf" and file.name[0] != ".")
    whole = {PART.sub(r"\1", file.name): file for file in reversed(found)}
    if len(whole) > 1:
        raise CheckpointError(
            f"{path} has several GGUF files, {found[0].name} and others; give the path of one of them"
        )
    return next(iter(whole.values()), None)


def with_tokenizer(path_or_id: str | Path, tokenizer: str | Path, revision: str | None = None) -> GgufSource:
    """A GGUF with the tokenizer of a folder. Raises OptionError for another source, or one at a revision."""
    path = gguf_file(path_or_id)
    if path is None or revision is not None:
        raise OptionError("a tokenizer's folder is taken for a GGUF only, which has no revision; leave one of both out")
    return GgufSource(path, Path(tokenizer))


class GgufSource(LocalSource):
    """A GGUF file; `tokenizer` is a folder whose tokenizer and template are taken instead of the file's own."""

    def __init__(self, path: Path, tokenizer: Path | None = None) -> None:
        super().__init__(path.resolve().parent, label=str(path))
        self.paths = _parts(path.resolve())
        self.tokenizer = None if tokenizer is None else LocalSource(tokenizer.expanduser().resolve())
        if tokenizer is not None and not tokenizer.expanduser().is_dir():
            raise CheckpointError(f"{tokenizer}: no such folder; give the folder of the tokenizer's files")
        if self.tokenizer is not None and not {"tokenizer.json", "tokenizer.model"} & {*self.tokenizer.small_files()}:
            raise CheckpointError(f"{tokenizer} has no tokenizer.json; give the folder of the tokenizer's files")

    @cached_property
    def heads(self) -> list[GgufHeader]:
        return [read_gguf_header(path) for path in self.paths]

    @cached_property
    def facts(self) -> GgufFacts:
        return GgufFacts(self.heads[0].metadata, self.label)

    def small_files(self) -> list[str]:
        return sorted(self._small)

    def read_small(self, name: str) -> bytes:
        if name == CONFIG_FILE:
            return self._config
        if name == DEFAULTS:
            return self._defaults
        if name not in self._small:
            raise CheckpointError(f"{self.label} has no {name}")
        return self._small[name]

    @contextmanager
    def laid_out(self, small: Mapping[str, bytes]) -> Iterator[Path]:
        with _folder_of(small, self.label) as folder:
            try:
                yield Path(folder)
            except CheckpointError as error:
                beside = self.label if self.tokenizer is None else self.tokenizer.label
                text = str(error).replace(f"{folder}: the tokenizer", f"{beside}: the tokenizer")
                raise CheckpointError(text.replace(folder, self.label)) from error

    def shards(self) -> list[str]:
        return [path.name for path in self.paths]

    def headers(self) -> list[StoredTensor]:
        return [
            StoredTensor(Tensor(one.name, one.ggml_type, one.shape), path.name, one.offset)
            for path, head in zip(self.paths, self.heads, strict=True)
            for one in head.tensors
        ]

    def tensors(self, raw: Mapping[str, Any], config: ModelConfig) -> list[SourceTensor]:
        """The tensors by the Hub's names. Raises CheckpointError for one without, or of a type that is not unpacked."""
        found = Counter(one.name for head in self.heads for one in head.tensors)
        twice = next((name for name, count in found.items() if count > 1), None)
        if twice is not None:
            raise CheckpointError(f"{self.label}: {twice} is there twice; get the file, or all of its parts, again")
        made = []
        for path, head in zip(self.paths, self.heads, strict=True):
            for one in sorted(head.tensors, key=lambda tensor: tensor.offset):
                name = hub_name(one.name)
                if name is not None:
                    made.append(_source_tensor(name, one, path.name, self.label))
                elif one.name != ROPE:
                    raise CheckpointError(f"{self.label}: {one.name} is no part of DiffusionGemma that is known")
        return made

    def note(self, raw: Mapping[str, Any], tensors: Sequence[SourceTensor]) -> str | None:
        """What is not in the file, and how it is read nevertheless."""
        if self._rope is not None:
            return None
        return f"{self.label} has no {ROPE}; {PUBLISHED_ROTATED:.0%} of a head turn in full layers, as published"

    @cached_property
    def _config(self) -> bytes:
        embeddings = self._tensor(EMBEDDINGS)
        if embeddings is None or len(embeddings[1].shape) != 2:
            raise CheckpointError(f"{self.label} has no {EMBEDDINGS} of two dimensions; take a GGUF of the whole model")
        return _json(config_json(self.facts, embeddings[1].shape[0], self._rotated()))

    @cached_property
    def _defaults(self) -> bytes:
        return _json(generation_config_json(self.facts, self.facts.texts("tokenizer.ggml.tokens")))

    @cached_property
    def _small(self) -> dict[str, bytes]:
        beside = {DEFAULTS: self._defaults}
        if self.tokenizer is None:
            return beside | tokenizer_files(self.facts)
        names = [name for name in self.tokenizer.small_files() if is_of_tokenizer(name)]
        return beside | {name: self.tokenizer.read_small(name) for name in names}

    @cached_property
    def _rope(self) -> np.ndarray | None:
        found = self._tensor(ROPE)
        if found is None:
            return None
        path, tensor = found
        if tensor.ggml_type != "F32" or len(tensor.shape) != 1:
            raise CheckpointError(f"{self.label}: {ROPE} is {tensor.ggml_type} {list(tensor.shape)}, not a row of F32")
        with path.open("rb") as stream:
            stream.seek(tensor.offset)
            return np.frombuffer(stream.read(tensor.nbytes), np.float32)

    def _rotated(self) -> float:
        """The share of a head that turns in full layers: the frequencies that are divided by 1."""
        factors = self._rope
        if factors is None:
            return PUBLISHED_ROTATED
        turning = int((factors == 1).sum())
        if not turning or not (factors[:turning] == 1).all() or not (factors[turning:] > 1e9).all():
            raise CheckpointError(f"{self.label}: {ROPE} scales frequencies, which no DiffusionGemma does")
        return turning / len(factors)

    def _tensor(self, name: str) -> tuple[Path, GgufTensor] | None:
        pairs = ((path, one) for path, head in zip(self.paths, self.heads, strict=True) for one in head.tensors)
        return next((pair for pair in pairs if pair[1].name == name), None)


def _folder_of(small: Mapping[str, bytes], label: str) -> TemporaryDirectory[str]:
    """A folder with these files, which goes at the end of a `with`. Raises CheckpointError."""
    try:
        folder = TemporaryDirectory()
        for name, content in small.items():
            (Path(folder.name) / name).parent.mkdir(exist_ok=True)
            (Path(folder.name) / name).write_bytes(content)
    except OSError as error:
        where = f"{gettempdir()} ({error.strerror})"
        raise CheckpointError(f"{label}: its tokenizer cannot go to {where}; make room there") from None
    return folder


def _source_tensor(name: str, one: GgufTensor, file: str, where: str) -> SourceTensor:
    if one.ggml_type in FLOATING:
        return SourceTensor.plain(StoredTensor(Tensor(name, one.ggml_type, one.shape), file, one.offset))
    check_unpacked(one.ggml_type, f"{where}: {one.name}")
    rows, width = int(np.prod(one.shape[:-1])), one.shape[-1]
    encoding = GgmlBlocks(one.ggml_type)
    packed = StoredTensor(Tensor(name, "U8", (rows, one.nbytes // max(rows, 1))), file, one.offset)
    block = RowBlock(rows, width, encoding, (Component.by_rows(packed, rows),))
    return SourceTensor(Tensor(name, encoding.name, one.shape), (block,))


def _parts(path: Path) -> list[Path]:
    """All parts of a file that is split, in order. Raises CheckpointError if one is missing."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match[3])
    parts = [path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}.gguf") for number in range(1, count + 1)]
    missing: Iterable[Path] = (part for part in parts if not part.is_file())
    for part in missing:
        raise CheckpointError(f"{path} is one of {count} parts, and {part.name} is not beside it; download it")
    return parts


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
