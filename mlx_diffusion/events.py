"""The events of a run: progress through a long prompt, drafts, final text, and the end with its figures.

Plain frozen records on the host, safe to keep and to hand to another thread. Knows nothing of the run that makes them.
Joining `.text` over all events of a row gives that row's whole text.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

FinishReason = Literal["stop", "length", "context"]


@dataclass(frozen=True)
class Stats:
    """The figures of one row; positions are those that really went through the layers for it."""

    prompt_tokens: int
    cached_tokens: int  # prompt tokens that did not have to be encoded
    generated_tokens: int  # the stop token included
    blocks: int
    denoising_steps: int
    decoder_positions: int  # canvas positions sent through the layers, step by step
    encoder_positions: int  # positions of the prompt and of finished canvases that were encoded
    prompt_seconds: float
    generation_seconds: float
    first_text_seconds: float | None  # from the call to the first text; None when there is none
    peak_memory_bytes: int


@dataclass(frozen=True)
class Prefill:
    """A part of a long prompt has been encoded and there is more; a prompt of one part has no such event."""

    encoded_tokens: int  # of this row's prompt, those found in a prefix store included
    prompt_tokens: int
    row: int = 0

    @property
    def text(self) -> str:
        """Empty: nothing has been written yet."""
        return ""


@dataclass(frozen=True, eq=False)
class Draft:
    """One denoising step of one row."""

    block: int
    step: int
    canvas: np.ndarray  # int32 [L], the step's input
    argmax: np.ndarray  # int32 [L], the most likely tokens
    accepted: np.ndarray  # bool [L], the positions whose sample was kept
    entropy: np.ndarray  # float32 [L], in nats
    row: int = 0

    @property
    def text(self) -> str:
        """Empty: a draft may still change."""
        return ""


@dataclass(frozen=True)
class Segment:
    """A block's final tokens, a stop token included, and the text that is now certain."""

    block: int
    tokens: tuple[int, ...]
    text: str
    row: int = 0


@dataclass(frozen=True)
class Finish:
    """The end of one row: a stop token, `max_tokens` ("length"), or no room for another canvas ("context")."""

    finish_reason: FinishReason
    stats: Stats
    row: int = 0

    @property
    def text(self) -> str:
        """Empty: all text has come with the segments."""
        return ""


Event = Prefill | Draft | Segment | Finish
