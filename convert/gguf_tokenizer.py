"""The tokenizer's files from the metadata of a GGUF file: Gemma's byte-pair encoding, its special tokens, its template.

Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from typing import Any

from mlx_diffusion.convert.gguf_config import GgufFacts
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.visible_text import shown

MODEL = "gemma4"
UNKNOWN, CONTROL, OWN = 2, 3, 4  # types of tokens: of all else, special, and taken whole wherever they stand
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
SPACE = "▁"


def tokenizer_files(facts: GgufFacts) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and, if it has one, the chat template. Raises CheckpointError."""
    model = facts.metadata.get("tokenizer.ggml.model")
    if model != MODEL or facts.metadata.get("tokenizer.ggml.add_space_prefix"):
        found = "no tokenizer" if model is None else f"a tokenizer of the model {model!r}"
        raise CheckpointError(
            f"{facts.where} has {found}, where {MODEL!r} is read; give tokenizer=... with a folder that has "
            "the tokenizer's files"
        )
    tokens = facts.texts("tokenizer.ggml.tokens")
    kinds = facts.get("tokenizer.ggml.token_type", list)
    if not all(isinstance(kind, int) for kind in kinds):
        raise CheckpointError(f"{facts.where}: tokenizer.ggml.token_type holds what is no number; download it again")
    if len(kinds) != len(tokens) or len({*tokens}) != len(tokens):
        raise CheckpointError(
            f"{facts.where}: it has {count_of(len(tokens), 'token')}, {len({*tokens})} of them different, and "
            f"{count_of(len(kinds), 'type')} "
            "of tokens; add --tokenizer FOLDER with a folder that has the tokenizer's files"
        )
    files = {
        "tokenizer.json": _json(_tokenizer(facts, tokens, kinds)),
        "tokenizer_config.json": _json(_config(facts, tokens, kinds)),
    }
    template = facts.metadata.get("tokenizer.chat_template")
    return files | ({"chat_template.jinja": template.encode()} if isinstance(template, str) else {})


def _tokenizer(facts: GgufFacts, tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    added = [
        {
            "id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": kind != OWN,
        }
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (UNKNOWN, CONTROL, OWN)
    ]  # fmt: skip
    merges = _merges(facts, {*tokens})
    first = _named(facts, tokens).get("bos_token") if facts.metadata.get("tokenizer.ggml.add_bos_token") else None
    begin = [{"SpecialToken": {"id": first, "type_id": 0}}] if first else []
    special = {first: {"id": first, "ids": [tokens.index(first)], "tokens": [first]}} if first else {}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [*begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _named(facts, tokens).get("unk_token"),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def _merges(facts: GgufFacts, tokens: Set[str]) -> list[list[str]]:
    """The pairs that are merged, the first first. Raises CheckpointError: without them, text becomes other tokens."""
    merges = [merge.split(" ") for merge in facts.texts("tokenizer.ggml.merges")]
    if not merges:
        raise CheckpointError(
            f"{facts.where}: it has no tokenizer.ggml.merges; give tokenizer=... with a folder that has the "
            "tokenizer's files"
        )
    if not all(len(pair) == 2 for pair in merges):
        raise CheckpointError(f"{facts.where}: tokenizer.ggml.merges holds a line that is no pair; download it again")
    wrong = next((pair for pair in merges if not {*pair, "".join(pair)} <= tokens), None)
    if wrong is not None:
        raise CheckpointError(
            f"{facts.where}: tokenizer.ggml.merges joins {shown(' '.join(wrong))}, and not all of that are tokens; "
            "download it again"
        )
    return merges


def _config(facts: GgufFacts, tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    named = _named(facts, tokens)
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **named,
        "extra_special_tokens": [token for token in special if token not in named.values()],
    }


def _named(facts: GgufFacts, tokens: Sequence[str]) -> dict[str, str]:
    """The special tokens that have a name, by it. Raises CheckpointError for an id that no token has."""
    named = {}
    for name, key in NAMED.items():
        number = facts.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            if not isinstance(number, int) or not 0 <= number < len(tokens):
                raise CheckpointError(f"{facts.where}: tokenizer.ggml.{key}_token_id is {number}, which no token has")
            named[name] = tokens[number]
    return named


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", "replace")
