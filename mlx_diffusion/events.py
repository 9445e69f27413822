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
    blocks: int  # canvases, or rounds behind the prompt's own pass
    denoising_steps: int
    decoder_positions: int  # canvas positions sent through the layers, step by step
    encoder_positions: int  # positions of the prompt and of finished canvases that were encoded
    prompt_seconds: float
    generation_seconds: float
    first_text_seconds: float | None  # from the call to the first text; None when there is none
    peak_memory_bytes: int
    passes: int = 0  # of the network behind the prompt's: denoising steps, canvases encoded, tokens chosen or verified
    drafted_tokens: int = 0  # handed to verification
    accepted_tokens: int = 0  # of those
    levers: tuple[str, ...] = ()  # of denoising, those that were in use, as in early_end=0.99


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
    """One denoising step of one row: of a canvas, or of a draft that is to be verified."""

    block: int
    step: int
    canvas: np.ndarray  # int32 [L], the step's input
    argmax: np.ndarray  # int32 [L], the most likely tokens
    accepted: np.ndarray  # bool [L], the positions whose sample was kept; of a draft, those to be verified
    entropy: np.ndarray  # float32 [L], in nats
    row: int = 0
    forwarded: int | None = None  # how many of the positions went through the layers; None: all

    @property
    def text(self) -> str:
        """Empty: a draft may still change."""
        return ""


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was, natural logarithms of probabilities before temperature, top_p, top_k and min_p."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # the most likely tokens, as many as were asked for, the first one first


@dataclass(frozen=True)
class Segment:
    """Tokens that are final, a stop token included, and the text that is now certain.

    A denoising mode gives those of a block, the others those of a round: of one pass, and of a draft before it. The
    first token comes with the prompt's pass, in block 0 as well.
    """

    block: int
    tokens: tuple[int, ...]
    text: str
    row: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()  # one a token, where the option `logprobs` asks for them
    drafted: int = 0  # tokens of a draft that the round's pass verified; it was over one position more


@dataclass(frozen=True)
class Finish:
    """The end of one row: a stop token or string, `max_tokens` ("length"), or no room for more ("context")."""

    finish_reason: FinishReason
    stats: Stats
    row: int = 0

    @property
    def text(self) -> str:
        """Empty: all text has come with the segments."""
        return ""


Event = Prefill | Draft | Segment | Finish
