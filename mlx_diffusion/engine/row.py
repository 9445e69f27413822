"""One request on its way: what is encoded, the canvas at work, what has been written, and where it ends.

Knows nothing of other rows or of how a step is computed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import Canvas, Rules, temperature, through_stop
from mlx_diffusion.engine.step import Turn, first_canvas
from mlx_diffusion.events import Finish, FinishReason, Segment, Stats
from mlx_diffusion.network.cache import Prefix, PrefixCache
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.tokenizer import TextStream


@dataclass
class Row:
    """A request that has been admitted. Its times are readings of time.perf_counter."""

    index: int
    request: Request
    model: DiffusionGemma
    cache: PrefixCache
    text: TextStream
    started: float
    waiting: list[int] = field(default_factory=list)  # tokens that are to be encoded before the next canvas
    encoded: list[int] = field(default_factory=list)  # what the cache holds
    cached_tokens: int = 0
    canvas: Canvas | None = None
    prefix: Prefix | None = None  # what the canvas sees, for as long as there is one
    block: int = 0
    step: int = 0  # of this block
    generated: int = 0
    steps: int = 0  # of all blocks
    decoder_positions: int = 0
    encoder_positions: int = 0
    prefilled: float | None = None
    first_text: float | None = None
    reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.rules = Rules.of(self.request.settings)

    @classmethod
    def admit(cls, index: int, request: Request, model: DiffusionGemma, text: TextStream, started: float) -> Row:
        """A row at its very beginning, with what a prefix store has kept of its prompt."""
        tokens = list(request.tokens)
        cache = model.make_cache(spare=0) if request.prefixes is None else request.prefixes.find(tokens)
        row = cls(index, request, model, cache, text, started)
        row.cached_tokens = cache.offset
        row.encoded, row.waiting = tokens[: cache.offset], tokens[cache.offset :]
        if not row.waiting:
            row.prefilled = time.perf_counter()
        return row

    @property
    def length(self) -> int:
        """Positions of a canvas."""
        return self.request.settings.canvas_length or self.model.config.canvas_length

    def passage(self) -> Passage:
        """The next part that is to be encoded."""
        part = self.waiting[: self.request.settings.prefill_step_size]
        return Passage(mx.array(part, dtype=mx.int32), self.cache)

    def take_encoded(self, count: int) -> None:
        """The next `count` tokens are in the cache."""
        self.encoded, self.waiting = self.encoded + self.waiting[:count], self.waiting[count:]
        self.encoder_positions += count
        if self.request.prefixes is not None:
            self.request.prefixes.keep(self.encoded, self.cache)
        if not self.waiting and self.prefilled is None:
            self.prefilled = time.perf_counter()

    def turn(self) -> Turn:
        """What the row brings to its next step; begins a canvas where none is at work."""
        request = self.request
        if self.canvas is None or self.prefix is None:
            self.prefix = self.cache.prefix(few_shapes=self.model.compiled)
            tokens = request.draws.initial(self.block, self.length)
            self.canvas, self.step = first_canvas(tokens, self.model.no_signal(self.length)), 0
        return turn_of(request, self.canvas, self.prefix, self.rules, self.block, self.step)

    def take_step(self, canvas: Canvas, forwarded: int, finished: bool) -> bool:
        """The canvas has taken a step; whether it is finished, by the rules or for want of further steps."""
        self.canvas = canvas
        self.step += 1
        self.steps += 1
        self.decoder_positions += forwarded
        return finished or self.step == self.request.settings.max_denoising_steps

    def take_canvas(self, tokens: list[int]) -> Segment:
        """Take in a finished canvas: cut it, decide whether the row ends here, give its tokens and text."""
        settings = self.request.settings
        written, stopped = through_stop(tokens[: settings.max_tokens - self.generated], settings.eos_token_id)
        self.generated += len(written)
        if stopped:
            self.reason = "stop"
        elif self.generated == settings.max_tokens:
            self.reason = "length"
        elif len(self.request.tokens) + self.generated + self.length > self.model.config.max_position_embeddings:
            self.reason = "context"
        text = self.text.push(written, last=self.reason is not None)
        if text and self.first_text is None:
            self.first_text = time.perf_counter()
        segment = Segment(self.block, tuple(written), text, self.index)
        self.canvas = self.prefix = None  # before its cache is written to: it shares the arrays
        self.block += 1
        if self.reason is None:
            self.waiting = tokens
        return segment

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
            ),
            self.index,
        )


def turn_of(request: Request, canvas: Canvas, prefix: Prefix, rules: Rules, block: int, number: int) -> Turn:
    """What a canvas of a request brings to step `number` (0, 1, …) of a block."""
    settings, draws, policy = request.settings, request.draws, request.policy
    length = canvas.tokens.shape[0]
    return Turn(
        canvas,
        prefix,
        mx.array([temperature(number, settings.max_denoising_steps, settings.t_min, settings.t_max)]),
        draws.gumbel(block, number, length),
        draws.renoise(block, number, length),
        rules,
        policy,
        None if policy.focus is None else policy.focus(canvas, number),
    )


def first_turn(model: DiffusionGemma, request: Request) -> Turn:
    """What a request brings to its very first step: its prompt has been encoded, nothing has been denoised."""
    cache, size = model.make_cache(spare=0), request.settings.prefill_step_size
    for start in range(0, len(request.tokens), size):
        model.encode([Passage(mx.array(request.tokens[start : start + size], dtype=mx.int32), cache)])
        mx.eval(cache.arrays())
    length = request.settings.canvas_length or model.config.canvas_length
    canvas = first_canvas(request.draws.initial(0, length), model.no_signal(length))
    return turn_of(request, canvas, cache.prefix(model.compiled), Rules.of(request.settings), 0, 0)
