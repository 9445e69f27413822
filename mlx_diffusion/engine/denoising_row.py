"""A row that denoises canvas after canvas: the result of each is encoded behind the text, and the next one begins.

Knows nothing of other rows or of how a step is computed.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.choice import Choice
from mlx_diffusion.engine.guided_canvas import CanvasGuide
from mlx_diffusion.engine.levers import cut, rounded_width, with_focus
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.row import Row
from mlx_diffusion.engine.rules import Canvas, Rules, temperature, through_stop
from mlx_diffusion.engine.step import Stepped, Turn, first_canvas
from mlx_diffusion.events import Draft, Event, Segment
from mlx_diffusion.network.cache import Prefix
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.structure.walking import Walked
from mlx_diffusion.tokenizer import Tokenizer


class DenoisingRow(Row):
    """The canvas at work, and what it sees."""

    spare = 0

    def __init__(self, index: int, request: Request, model: DiffusionGemma, tokenizer: Tokenizer) -> None:
        length = request.settings.canvas_length or model.config.canvas_length
        self.kept_back = int(_all_known(request.pins(0, length)) is not None)  # it follows a pass over the prompt
        super().__init__(index, request, model, tokenizer)
        self.rules = Rules.of(request.settings)  # of the canvas at work
        self.canvas: Canvas | None = None
        is_shorter = 0 < request.settings.first_canvas < length
        self.guesses = is_shorter and not request.pinned_through  # the first canvas
        self.prefix: Prefix | None = None  # for as long as there is a canvas
        self.guide = None if request.guide is None else CanvasGuide(request.guide, model)

    @property
    def encodes(self) -> bool:
        return bool(self.waiting)

    @property
    def length(self) -> int:
        """Positions of a canvas."""
        return self.request.settings.canvas_length or self.model.config.canvas_length

    def take_encoded(self, count: int, choice: Choice | None) -> list[Event]:
        events = super().take_encoded(count, choice)
        self.keep()
        known = None if self.waiting else _all_known(self.request.pins(self.block, self.length))
        return events if known is None else [*events, self._written(known)]

    def turn(self) -> Turn:
        """Begins a canvas where none is at work."""
        request = self.request
        if self.canvas is None or self.prefix is None:
            self.prefix = self.cache.prefix(few_shapes=self.model.compiled)
            length = request.settings.first_canvas if self.guesses else self.length
            self.canvas, self.step = begun(request, self.model, self.block, length), 0
            self.rules = Rules.of(request.settings, ends=not self._known_further_on)
        return turn_of(request, self.canvas, self.prefix, self.rules, self.block, self.step)

    def take_step(self, turn: Turn, stepped: Stepped, draft: Draft, finished: bool) -> list[Event]:
        settings, length = self.request.settings, turn.canvas.tokens.shape[0]
        self.canvas = stepped.canvas
        self.step += 1
        self.steps += 1
        self.passes += 1
        self.decoder_positions += length if turn.positions is None else turn.positions.shape[0]
        last, walked = self.step == settings.max_denoising_steps, None
        if self.guide is not None:
            stepped, draft, finished, walked = self.guide.hold(turn, stepped, draft, finished, last)
            self.canvas = stepped.canvas
        if not finished and not last:
            if stepped.needed is not None:
                self._crop(np.array(stepped.needed).item())
            return [draft]
        self.canvas = self.prefix = None  # before its cache is written to: it shares the arrays
        tokens, was_guess, self.guesses = draft.argmax.tolist(), self.guesses, False
        ends = through_stop(tokens, settings.eos_token_id)[1] if walked is None else walked.guide.complete
        if was_guess and not ends:
            return [draft]  # the text is longer than was guessed, and begins anew
        return [draft, self._written(tokens, walked)]

    def _crop(self, needed: int) -> None:
        """Let the positions leave that the canvas does not need."""
        assert self.canvas is not None
        length = self.canvas.tokens.shape[0]
        width = rounded_width(needed, length)
        if width < length:
            self.canvas = cut(self.canvas, width)

    @property
    def _known_further_on(self) -> bool:
        """Whether something is pinned behind this block, so that no stop token ends the text or cuts the canvas."""
        return self.request.pinned_through > (self.block + 1) * self.length

    def _written(self, tokens: list[int], walked: Walked | None = None) -> Segment:
        """A canvas has become final."""
        reason = None
        if self.guide is not None and walked is not None:
            final = self.guide.settle(walked, self._left())
            tokens, reason = final.tokens, final.end
        segment = self.write(tokens, self.length, reason=reason)
        self.block += 1
        if self.reason is None:
            self.waiting = tokens
        return segment

    def _left(self) -> int:
        """How many tokens may come, on this canvas and on those for which the context has room."""
        canvases = (self._context - len(self.request.tokens) - self.generated) // self.length
        return min(self.request.settings.max_tokens - self.generated, canvases * self.length)


def begun(request: Request, model: DiffusionGemma, block: int, length: int) -> Canvas:
    """The canvas that a block begins with."""
    pins = request.pins(block, length)
    tokens, pinned = request.draws.initial(block, length), None if pins is None else mx.array(pins)
    return first_canvas(tokens, model.no_signal(length), pinned, locks=request.settings.lock_threshold < 1)


def _all_known(pins: np.ndarray | None) -> list[int] | None:
    """The tokens of a canvas of which nothing is free."""
    return None if pins is None or (pins < 0).any() else pins.tolist()


def turn_of(request: Request, canvas: Canvas, prefix: Prefix, rules: Rules, block: int, number: int) -> Turn:
    """What a canvas of a request brings to step `number` (0, 1, …) of a block."""
    settings, draws = request.settings, request.draws
    policy, length = with_focus(request.policy, settings), canvas.tokens.shape[0]
    return Turn(
        canvas,
        prefix,
        mx.array([temperature(number, settings.max_denoising_steps, settings.t_min, settings.t_max)]),
        draws.gumbel(block, number, length),
        draws.renoise(block, number, length),
        rules,
        policy,
        None if policy.focus is None else policy.focus(canvas, number),
        None if canvas.free is None else mx.array(np.flatnonzero(np.array(canvas.free)), dtype=mx.int32),
    )


def first_turn(model: DiffusionGemma, request: Request) -> Turn:
    """What a request brings to its very first step: its prompt has been encoded, nothing has been denoised."""
    cache, size = model.make_cache(spare=0), request.settings.prefill_step_size
    for start in range(0, len(request.tokens), size):
        model.encode([Passage(mx.array(request.tokens[start : start + size], dtype=mx.int32), cache)])
        mx.eval(cache.arrays())
    length = request.settings.canvas_length or model.config.canvas_length
    canvas = begun(request, model, 0, length)
    return turn_of(request, canvas, cache.prefix(model.compiled), Rules.of(request.settings), 0, 0)
