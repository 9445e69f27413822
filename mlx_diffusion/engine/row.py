"""One request on its way: what is encoded, what has been written, where it ends, and what it has cost.

What all modes share; how a row comes to its next tokens is told by `DenoisingRow` and `CausalRow`. Knows nothing of
other rows or of how a pass is computed.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.choice import Choice
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.step import Stepped, Turn
from mlx_diffusion.events import Draft, Event, Finish, FinishReason, Segment, Stats, TokenLogprob
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.text_stream import StopText, TextStream
from mlx_diffusion.tokenizer import Tokenizer


class Row(ABC):
    """A request that has been admitted. Between two passes it wants one of them: `encodes`, or a denoising step."""

    spare: int  # positions that the cache must be able to give back
    kept_back: int  # tokens of the prompt that must be encoded anew, whatever a prefix store has kept

    def __init__(self, index: int, request: Request, model: DiffusionGemma, tokenizer: Tokenizer) -> None:
        self.index, self.request, self.model = index, request, model
        self.started = time.perf_counter()  # times are its readings
        hidden = {model.config.pad_token_id, *request.settings.eos_token_id}
        self.text = StopText(TextStream(tokenizer, hidden), request.settings.stop)
        tokens = list(request.tokens)
        self.cache: PrefixCache = (
            model.make_cache(self.spare)
            if request.prefixes is None
            else request.prefixes.find(tokens[: len(tokens) - self.kept_back])
        )
        self.cached_tokens = self.cache.offset
        self.encoded = tokens[: self.cached_tokens]  # what the cache holds
        self.waiting = tokens[self.cached_tokens :]  # final tokens that are to be encoded
        self.block = 0
        self.step = 0  # of this block
        self.generated = 0
        self.passes = 0
        self.steps = 0
        self.decoder_positions = 0
        self.encoder_positions = 0
        self.drafted = self.agreed = 0
        self.prefilled = None if self.waiting else self.started
        self.first_text: float | None = None
        self.reason: FinishReason | None = None

    @property
    @abstractmethod
    def encodes(self) -> bool:
        """Whether the next pass is to encode for this row; if not, it is to denoise."""

    @abstractmethod
    def turn(self) -> Turn:
        """What the row brings to its next denoising step."""

    @abstractmethod
    def take_step(self, turn: Turn, stepped: Stepped, draft: Draft, finished: bool) -> list[Event]:
        """A denoising step has been taken: its outcome, and whether the rules call the canvas finished."""

    @property
    def in_prompt(self) -> bool:
        """Whether the prompt has not been encoded as a whole."""
        return self.prefilled is None

    def passage(self) -> Passage:
        """The next part that is to be encoded."""
        part = self.waiting[: self.request.settings.prefill_step_size]
        return Passage(mx.array(part, dtype=mx.int32), self.cache, 0)

    def choose(self, logits: mx.array) -> Choice | None:
        """What the encoder says at the positions of the passage that are looked at, float32 [A, V]; lazy."""
        return None

    def take_encoded(self, count: int, choice: Choice | None) -> list[Event]:
        """The next `count` tokens are in the cache; `choice`, evaluated, is what `choose` gave."""
        self.encoded, self.waiting = self.encoded + self.waiting[:count], self.waiting[count:]
        self.encoder_positions += count
        self.passes += not self.in_prompt
        if not self.waiting and self.prefilled is None:
            self.prefilled = time.perf_counter()
        return []

    def keep(self) -> None:
        """Let the prefix store keep what the cache holds."""
        if self.request.prefixes is not None:
            self.request.prefixes.keep(self.encoded, self.cache)

    def write(
        self,
        tokens: Sequence[int],
        room: int,
        logprobs: Sequence[TokenLogprob] = (),
        reason: FinishReason | None = None,
    ) -> Segment:
        """Take in tokens that are final: cut them where the row ends, and give what is left with its text.

        room: positions that must be left in the context for the row to go on. reason: why it ends with these tokens,
        where none of them says so.
        """
        settings, written, text = self.request.settings, 0, ""
        for token in tokens[: settings.max_tokens - self.generated]:
            written += 1
            text += self.text.push(token)
            is_known = self.generated + written < self.request.pinned_through  # or what is known comes further on
            if (token in settings.eos_token_id and not is_known) or self.text.stopped:
                self.reason = "stop"
                break
        self.generated += written
        self.reason = self.reason or reason
        if self.reason is None and self.generated == settings.max_tokens:
            self.reason = "length"
        elif self.reason is None and len(self.request.tokens) + self.generated + room > self._context:
            self.reason = "context"
        if self.reason is not None:
            text += self.text.last()
        if text and self.first_text is None:
            self.first_text = time.perf_counter()
        return Segment(self.block, tuple(tokens[:written]), text, self.index, tuple(logprobs[:written]))

    @property
    def _context(self) -> int:
        return self.model.config.max_position_embeddings

    def finish(self) -> Finish:
        """The row's end, and its figures."""
        assert self.reason is not None and self.prefilled is not None
        return Finish(
            self.reason,
            Stats(
                prompt_tokens=len(self.request.tokens),
                cached_tokens=self.cached_tokens,
                generated_tokens=self.generated,
                blocks=self.block,
                denoising_steps=self.steps,
                decoder_positions=self.decoder_positions,
                encoder_positions=self.encoder_positions,
                prompt_seconds=self.prefilled - self.started,
                generation_seconds=time.perf_counter() - self.prefilled,
                first_text_seconds=None if self.first_text is None else self.first_text - self.started,
                peak_memory_bytes=mx.get_peak_memory(),
                passes=self.passes,
                drafted_tokens=self.drafted,
                accepted_tokens=self.agreed,
                levers=self.request.settings.levers,
            ),
            self.index,
        )


def logprobs_of(choice: Choice) -> list[TokenLogprob]:
    """One record a position of an evaluated choice; what could not be chosen is not among the most likely."""
    columns = (np.array(array).tolist() for array in choice[:4])
    return [
        TokenLogprob(token, logprob, tuple(one for one in zip(top, likelihoods, strict=True) if one[1] > -math.inf))
        for token, logprob, top, likelihoods in zip(*columns, strict=True)
    ]
