"""The files of a checkpoint by name: what a conversion copies, replaces, removes and uploads; no other file is touched.

A folder may hold anything beside a checkpoint (notes, keys, another's weights), so that a name is on a list here, or
the file is left alone. Knows nothing of what the files hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mlx_diffusion.checkpoint.folder import CONFIG_FILE, UNFINISHED
from mlx_diffusion.checkpoint.recipe_files import RECIPE_FILE
from mlx_diffusion.checkpoint.weight_files import INDEX_FILE, SINGLE_FILE
from mlx_diffusion.convert.origin import ORIGIN
from mlx_diffusion.template_files import ADDITIONAL
from mlx_diffusion.whole_files import PART

CARD = "README.md"
LICENCES = frozenset(
    f"{name}{ending}" for name in ("LICENSE", "NOTICE", "USE_POLICY", "PROHIBITED_USE_POLICY")
    for ending in ("", ".md", ".txt")
)  # fmt: skip
TOKENIZER = frozenset(
    {
        "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "chat_template.json",
    }
)  # fmt: skip
COPIED = TOKENIZER | frozenset(
    {
        "generation_config.json", "processor_config.json", "preprocessor_config.json", "image_processor_config.json",
        "video_preprocessor_config.json", "video_processor_config.json",
    }
)  # fmt: skip
WRITTEN = frozenset(
    {CONFIG_FILE, INDEX_FILE, CARD, ORIGIN, UNFINISHED, RECIPE_FILE}
)  # made by a conversion, never copied
REPLACED = frozenset(
    {CONFIG_FILE, INDEX_FILE, ORIGIN, RECIPE_FILE, ADDITIONAL}
)  # the last, where it is a file or a link

NUMBERED_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
TEMPLATE = re.compile(rf"{ADDITIONAL}/[\w-][\w.-]*\.jinja", re.ASCII)  # in the only folder within a checkpoint's
HIDDEN_PART = re.compile(rf"(?P<folder>.*/)?\.(?P<name>[^/]+)\.[0-9a-f]{{8}}{re.escape(PART)}")


def is_of_tokenizer(name: str) -> bool:
    """True for a file of a tokenizer or of its chat templates, by its path within the checkpoint."""
    return name in TOKENIZER or TEMPLATE.fullmatch(name) is not None


def is_copied(name: str) -> bool:
    """True for a file that a conversion takes over as it is, and that another checkpoint's must not be taken for."""
    return name in COPIED or is_of_tokenizer(name)


def is_small(name: str) -> bool:
    """True for what is read of a source beside its weights."""
    return is_copied(name) or name in LICENCES | {CONFIG_FILE, INDEX_FILE, CARD}


def is_shard(name: str) -> bool:
    """True for a name that a conversion gives to weights."""
    return name == SINGLE_FILE or NUMBERED_SHARD.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """True for a file that a killed conversion had not finished."""
    hidden = HIDDEN_PART.fullmatch(name)
    if hidden:
        whole = (hidden["folder"] or "") + hidden["name"]
        return is_small(whole) or whole in WRITTEN
    return name.endswith(PART) and is_shard(name.removesuffix(PART))


def is_replaced(name: str) -> bool:
    """True for a file of an older checkpoint that must not be taken for one of the checkpoint that replaces it."""
    return is_leftover(name) or is_shard(name) or is_copied(name) or name in REPLACED


def files_in(folder: Path) -> list[str]:
    """The paths within a folder of all that may be a checkpoint's: files of every kind, also hidden, and links."""
    found = [*folder.iterdir(), *((folder / ADDITIONAL).iterdir() if (folder / ADDITIONAL).is_dir() else ())]
    return [str(file.relative_to(folder)) for file in found if file.is_symlink() or not file.is_dir()]


def uploaded(folder: Path, weights: Iterable[str]) -> list[str]:
    """The names of a finished conversion's files: its weights, and those beside them that a conversion writes."""
    beside = (name for name in files_in(folder) if is_small(name) or name in WRITTEN - {UNFINISHED})
    return [*weights, *sorted(name for name in beside if (folder / name).is_file())]
