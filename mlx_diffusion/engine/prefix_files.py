"""Kept prefixes as a file: written whole, and read only if every part of it is what such a file must hold.

The file names the model by a digest of all its weights, and has a digest of its own arrays. Files of earlier versions
have neither: a beginning of theirs is encoded again, and must come out the same. Knows nothing of which prefixes are
kept, or for how long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_diffusion.checkpoint.config import FULL as FULL_LAYER
from mlx_diffusion.errors import CheckpointError, OptionError
from mlx_diffusion.network.cache import Held
from mlx_diffusion.network.masks import first_seen
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.whole_files import whole_file

FORMAT = "mlx-diffusion prefixes 3"
SAMPLED = "mlx-diffusion prefixes 2"  # knew its model by some of the weights
OLDER = "mlx-diffusion prefixes 1"  # the same, and sliding layers held their window alone, in arrays with room for more
FULL = 0  # stands for the full layers in the names of a file; no point lies there
NAME = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(keys|values)")
ENCODED_AGAIN = 64  # tokens of a file that has no digests
TOLERANCE = {mx.float32: 1e-3}  # of the largest number, by type; parts of other lengths are summed in another order
COARSE = 5e-2


class SavedText(NamedTuple):
    """One text of a file."""

    tokens: np.ndarray  # int32 [P]
    full: dict[int, Held]  # by layer
    points: dict[int, dict[int, Held]]  # positions encoded -> layer -> what it held then


def write_prefixes(path: Path, texts: Sequence[SavedText], identity: str) -> None:
    """Write a file that only the user may read: prompts are in it; `identity` is the model's fingerprint.

    Raises OptionError.
    """
    arrays = {
        f"{index}.{point}.{layer}.{kind}": array[:, :, :held]
        for index, text in enumerate(texts)
        for point, layers in [(FULL, text.full), *text.points.items()]
        for layer, (keys, values, held) in layers.items()
        for kind, array in (("keys", keys), ("values", values))
    }
    tokens = json.dumps([text.tokens.tolist() for text in texts])
    metadata = {
        "format": FORMAT,
        "model": identity,
        "tokens": tokens,
        "digest": _digest([("tokens", tokens)], arrays),
    }
    try:
        # MLX adds the ending where it is missing
        with whole_file(path, private=True, suffix=".part.safetensors") as part:
            mx.save_safetensors(str(part), arrays, metadata)
    except (OSError, RuntimeError) as error:
        raise OptionError(f"{path}: the prefixes cannot be written ({error}); choose another place") from None


def read_prefixes(path: Path, model: DiffusionGemma, identity: str) -> list[SavedText]:
    """The texts of a file; `identity` is the model's fingerprint.

    Raises CheckpointError for a file of another model or recipe, or a damaged one.
    """
    try:
        loaded = mx.load(str(path), format="safetensors", return_metadata=True)
        assert isinstance(loaded, tuple)
        arrays, metadata = loaded
        assert isinstance(arrays, dict)
        mx.eval(arrays)
    except Exception:  # of many kinds, for what is no such file
        raise CheckpointError(f"{path} is missing or no file of saved prefixes; encode the prompt again") from None
    format = metadata.get("format")
    if format not in (FORMAT, SAMPLED, OLDER):
        raise CheckpointError(f"{path} holds no saved prefixes; give a file that PrefixStore.save wrote")
    if metadata.get("model") != (identity if format == FORMAT else sampled_fingerprint(model)):
        raise _of_another(path)
    tokens = metadata.get("tokens", "")
    if format == FORMAT and metadata.get("digest") != _digest([("tokens", tokens)], arrays):
        raise _damaged(path)
    try:
        texts = _texts(tokens, arrays, model, format == OLDER)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise _damaged(path) from None
    if format != FORMAT and texts and not _encodes_the_same(model, texts[0]):
        raise _of_another(path)
    return texts


def _texts(tokens: str, arrays: Mapping[str, mx.array], model: DiffusionGemma, older: bool) -> list[SavedText]:
    """All texts, checked. Raises ValueError, KeyError or TypeError for what `write_prefixes` would not have written."""
    texts = []
    for ids in json.loads(tokens):
        if not ids or not all(type(token) is int and 0 <= token < model.config.vocab_size for token in ids):
            raise ValueError("tokens")
        texts.append(SavedText(np.array(ids, np.int32), {}, {}))
    for name, keys in arrays.items():
        match = NAME.fullmatch(name)
        if match is None or match[4] == "values":
            if match is None or name.removesuffix("values") + "keys" not in arrays:
                raise ValueError(name)
            continue
        index, point, layer = (int(part) for part in match.groups()[:3])
        if index >= len(texts):
            raise ValueError(name)
        text, held = texts[index], keys.shape[2]
        if older and point != FULL:
            held = point - first_seen(point, model.config.sliding_window)
        values = arrays[name.removesuffix("keys") + "values"]
        (text.full if point == FULL else text.points.setdefault(point, {}))[layer] = keys, values, held
    for text in texts:
        _check(text, model)
    return texts


def _check(text: SavedText, model: DiffusionGemma) -> None:
    """Refuse a text with layers missing or too many, or with arrays of other shapes, by a ValueError."""
    config = model.config
    full = {layer for layer, kind in enumerate(config.layer_types) if kind == FULL_LAYER}
    sliding = set(range(len(config.layer_types))) - full
    if not sliding:
        text.points[len(text.tokens)] = {}  # has no arrays that would name it
    wanted: list[tuple[int, dict[int, Held], set[int], int | None]] = [(len(text.tokens), text.full, full, None)]
    wanted += [(point, layers, sliding, config.sliding_window) for point, layers in text.points.items()]
    if not text.points or max(text.points) > len(text.tokens):
        raise ValueError("points")
    for point, layers, expected, window in wanted:
        if layers.keys() != expected:
            raise ValueError("layers")
        for layer, (keys, values, held) in layers.items():
            heads, size = config.head_shape(config.layer_types[layer])
            most = held if window is None else min(point, keys.shape[2])  # full layers may come with room for more
            if not keys.shape == values.shape == (1, heads, keys.shape[2], size):
                raise ValueError("shape")
            if not point - first_seen(point, window) <= held <= most:
                raise ValueError("positions")
            if not all(mx.issubdtype(array.dtype, mx.floating) for array in (keys, values)):
                raise ValueError("type")


def _encodes_the_same(model: DiffusionGemma, text: SavedText) -> bool:
    """True if the model gives a text's first tokens the keys and values that its full layers have."""
    ids = text.tokens[:ENCODED_AGAIN]
    cache = model.make_cache()
    model.encode([Passage(mx.array(ids), cache)])
    for layer, (keys, values, _) in text.full.items():
        own = cache.layers[layer]
        for array, saved in ((own.keys, keys), (own.values, values)):
            assert array is not None
            ours, theirs = (a[:, :, : len(ids)].astype(mx.float32) for a in (array, saved))
            bound = TOLERANCE.get(model.dtype, COARSE) * mx.abs(theirs).max()
            if not (mx.abs(ours - theirs).max() <= bound).item():
                return False
    return True


def fingerprint(model: DiffusionGemma) -> str:
    """What tells two checkpoints, and two quantisations of one, apart: sizes, formats and all weights."""
    weights = dict(tree_flatten(model.parameters()))
    return _digest([("config", repr(model.config))], weights)


def sampled_fingerprint(model: DiffusionGemma) -> str:
    """The name that earlier versions gave a model: sizes, formats, and some of the weights."""
    digest = blake2b(repr(model.config).encode(), digest_size=16)
    for array in (
        model.norm.weight,
        *(layer.encoder_scalar for layer in model.layers),
        *(layer.self_attn.q_proj.weight[:4] for layer in model.layers),
        model.embed_tokens.weight[:4],
    ):
        words = array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array
        digest.update(np.array(words).tobytes())
    return digest.hexdigest()


def _digest(texts: Sequence[tuple[str, str]], arrays: Mapping[str, mx.array]) -> str:
    """One digest of texts and of all bytes of arrays, with their names, types and shapes."""
    digest = sha256(repr(texts).encode("utf-8", "surrogatepass"))
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode("utf-8", "surrogatepass"))
        if array.size:
            digest.update(np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).data)
    return digest.hexdigest()


def _of_another(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} was saved with another model or another quantisation of it; encode the prompt again"
    )


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: it is not as PrefixStore.save wrote it; encode the prompt again")
