"""Likelihoods of tokens in OpenAI's two forms. Tokens without a text, those that end it, have no entry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlx_diffusion.events import Segment, TokenLogprob
from mlx_diffusion.options import Settings
from mlx_diffusion.tokenizer import Tokenizer

LEAST = -9999.0  # what stands for the logarithm of zero, which JSON has no word for


def chat_logprobs(segment: Segment, tokenizer: Tokenizer, settings: Settings) -> dict[str, Any] | None:
    """As `choices[].logprobs` of a chat has them; None where there are none."""
    entries = [
        {
            **_entry(tokenizer, found.token, found.logprob),
            "top_logprobs": [_entry(tokenizer, token, logprob) for token, logprob in found.top],
        }
        for found in _shown(segment, settings)
    ]
    return {"content": entries} if entries else None


def completion_logprobs(
    segment: Segment, tokenizer: Tokenizer, settings: Settings, offset: int
) -> dict[str, Any] | None:
    """As `choices[].logprobs` of a completion has them; `offset` counts the characters before the segment's."""
    found = list(_shown(segment, settings))
    if not found:
        return None
    tokens, offsets = [], []
    for one in found:
        tokens.append(tokenizer.decode([one.token]))
        offsets.append(offset)
        offset += len(tokens[-1])
    return {
        "tokens": tokens,
        "token_logprobs": [_finite(one.logprob) for one in found],
        "top_logprobs": [{tokenizer.decode([t]): _finite(logprob) for t, logprob in one.top} for one in found],
        "text_offset": offsets,
    }


def _shown(segment: Segment, settings: Settings) -> Iterator[TokenLogprob]:
    return (found for found in segment.logprobs if found.token not in settings.eos_token_id)


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([token])
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
