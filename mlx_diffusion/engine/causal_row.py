"""A row that writes by the encoder's own choices: one token a pass, or as many as a draft foresaw.

A round drafts some tokens (by denoising a short canvas behind the text, or by finding the same words before), encodes
the last final token and the draft in one pass, and keeps the encoder's choices up to the first with which the draft
disagrees: the encoder alone decides, and the tokens are those of one pass each. Choices are argmax(logits + noise) with
noise that belongs to the position, so that this holds for sampled text too. Knows nothing of other rows or of how a
pass is computed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.choice import Choice, choose
from mlx_diffusion.engine.drafting import FOUND, PLAIN, Drafting, DraftMemory, FoundText, Plan
from mlx_diffusion.engine.noise import PositionNoise
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.row import Row, logprobs_of
from mlx_diffusion.engine.rules import DRAFTS, Canvas, Rules
from mlx_diffusion.engine.step import Stepped, Turn, first_canvas
from mlx_diffusion.events import Draft, Event, TokenLogprob
from mlx_diffusion.network.cache import Prefix
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.structure.following import Followed, follow, foreseen
from mlx_diffusion.tokenizer import Tokenizer


class CausalRow(Row):
    """What is drafted, and what has become of drafts so far."""

    kept_back = 1  # its choice is the first token

    def __init__(self, index: int, request: Request, model: DiffusionGemma, tokenizer: Tokenizer) -> None:
        settings, canvas = request.settings, model.config.canvas_length
        self.drafts = settings.mode == "speculative"
        self.spare = canvas if self.drafts else 0
        super().__init__(index, request, model, tokenizer)
        self.drafting = Drafting(settings.draft_width, settings.draft_steps, canvas, request.drafts or DraftMemory())
        self.noise = PositionNoise(request.draws, model.config.vocab_size)
        self.found = FoundText()
        self.found.extend(request.tokens)
        self.plan: Plan | None = None  # of this round's draft
        self.guesses: list[int] = []  # tokens that may follow those that are waiting
        self.guide = request.guide  # behind those that are waiting
        self.allowed: mx.array | None = None  # tokens in place of each guess and behind them, uint32 [A, words]
        self.canvas: Canvas | None = None  # a draft that is being denoised
        self.rules = Rules.of(settings)

    @property
    def encodes(self) -> bool:
        return self.canvas is None or self.in_prompt

    def passage(self) -> Passage:
        """The next part of the prompt; behind it the last final token, and what may follow."""
        part = self.waiting[: self.request.settings.prefill_step_size]
        if len(part) < len(self.waiting):
            return Passage(mx.array(part, dtype=mx.int32), self.cache, 0)
        if self.plan is None:
            self._draft_beside(part)
        if self.guide is not None:
            self.guesses, masks = foreseen(self.guide, self.guesses, min(len(self.guesses), max(self._left(), 0)))
            self.allowed = mx.array(masks)
        canvas = None if self.canvas is None else self.canvas.tokens
        return Passage(mx.array(part + self.guesses, dtype=mx.int32), self.cache, 1 + len(self.guesses), canvas)

    def choose(self, logits: mx.array) -> Choice:
        settings, text = self.request.settings, [*self.encoded, *self.waiting]
        before = None
        if settings.repetition_penalty != 1:
            text += self.guesses
            before = [text[: len(text) - len(self.guesses) + index] for index in range(logits.shape[0])]
        return choose(logits, settings, self._noise(self._next, logits.shape[0]), before, self.allowed)

    def take_encoded(self, count: int, choice: Choice | None) -> list[Event]:
        if choice is None:
            return super().take_encoded(count, None)
        was_prompt, guesses, tokens = self.in_prompt, self.guesses, np.array(choice.tokens).tolist()
        agreed = next((place for place, guess in enumerate(guesses) if guess != tokens[place]), len(guesses))
        self.cache.rewind(len(guesses) - agreed)
        self.encoded += self.waiting + guesses[:agreed]
        self.encoder_positions += count
        self.passes += not was_prompt
        self.drafted += len(guesses)
        self.agreed += agreed
        if was_prompt:
            self.prefilled = time.perf_counter()
            self.keep()
        elif self.plan is not None:
            self.drafting.record(self.plan, agreed, len(guesses))
        self.waiting, self.guesses = [], []
        final = follow(self.guide, tokens[: agreed + 1], self._left() + 1)
        self.guide = final.guide
        segment = self.write(final.tokens, 1, self._logprobs(choice, final), final.end)
        segment = replace(segment, drafted=len(guesses))
        self.block += not was_prompt
        if self.reason is None:
            self.waiting = list(segment.tokens[agreed:])
            self.found.extend(segment.tokens)
            if self.canvas is None:
                self._begin_round()
        elif not was_prompt:
            self.keep()
        return [segment]

    def turn(self) -> Turn:
        assert self.canvas is not None
        width, settings = self.canvas.tokens.shape[0], self.request.settings
        first = self._next if self.in_prompt else len(self.encoded)  # where the canvas begins
        noise = self._noise(first, width + 1)  # and of the token that follows, which is chosen next
        return Turn(
            self.canvas,
            Prefix([], {}, mx.array(first)) if self.in_prompt else self.cache.prefix(few_shapes=self.model.compiled),
            mx.array([settings.temperature if settings.temperature > 0 else settings.t_max]),
            mx.zeros((0,)) if noise is None else noise[:width],
            self.canvas.tokens,
            self.rules,
            DRAFTS[settings.temperature > 0],
        )

    def take_step(self, turn: Turn, stepped: Stepped, draft: Draft, finished: bool) -> list[Event]:
        assert self.plan is not None
        beside = self.plan.source == "beside"
        self.canvas = stepped.canvas
        self.step += 1
        self.steps += 1
        self.passes += not beside
        self.decoder_positions += self.plan.width
        known = 0 if beside else len(self.waiting)  # of its positions
        proposed = np.array(stepped.canvas.tokens)[known:]
        handed_on = np.zeros(len(proposed), bool)
        if beside or self.step == self.request.settings.draft_steps:
            self.canvas = None
            ahead = len(self.waiting) if beside else 0  # of its tokens, which are final by now
            if self.reason is None and proposed[:ahead].tolist() == self.waiting[:ahead]:
                likely = np.array(stepped.canvas.survey.probability)[known + ahead :]
                self.guesses = self._worth_verifying(proposed[ahead:].tolist(), likely)
                handed_on[ahead : ahead + len(self.guesses)] = True
            else:
                self.drafting.record_useless(self.plan)
                self._begin_round()
        entropy = draft.entropy[known:]
        return [Draft(self.block, draft.step, draft.canvas[known:], proposed, handed_on, entropy, self.index)]

    def _logprobs(self, choice: Choice, final: Followed) -> list[TokenLogprob]:
        """Those of what was chosen, where the options ask for them; what must follow is certain."""
        most = self.request.settings.logprobs
        if most is None:
            return []
        certain = [TokenLogprob(token, 0.0, ((token, 0.0),)[:most]) for token in final.tokens[final.chosen :]]
        return logprobs_of(choice)[: final.chosen] + certain

    @property
    def _next(self) -> int:
        """The position of the next token to be chosen."""
        return len(self.encoded) + len(self.waiting)

    def _left(self) -> int:
        """How many tokens may come behind the next one."""
        written = len(self.request.tokens) + self.generated
        context = self.model.config.max_position_embeddings
        return min(self.request.settings.max_tokens - self.generated, context - written) - 1

    def _noise(self, first: int, count: int) -> mx.array | None:
        """The noise of `count` positions, float32 [count, V]; None where the most likely token is chosen."""
        if not self.request.settings.temperature:
            return None
        return self.noise.at(first, count)

    def _draft_beside(self, part: Sequence[int]) -> None:
        """Plan a draft that takes its step beside the prompt's last part, and begin its canvas."""
        self.plan = PLAIN
        if self.drafts and self._left() >= 1 and self.request.settings.draft_steps == 1:
            self.plan = self.drafting.beside(len(part), self.model.config.max_position_embeddings - self._next)
        if self.plan.source == "beside":
            width = self.plan.width
            self.canvas = first_canvas(self.request.draws.initial(self.block, width), self.model.no_signal(width))

    def _begin_round(self) -> None:
        self.plan, self.step = PLAIN, 0
        left = self._left()
        if not self.drafts or left < 1 or self.reason is not None:
            return
        most = min(left, self.model.config.canvas_length - 1)
        found = {source: self._until_stop(self.found.guess(matched, most)) for matched, source in FOUND.items()}
        room = self.model.config.max_position_embeddings - self._next + 1
        self.plan = self.drafting.plan([len(tokens) for tokens in found.values()], room)
        width = self.plan.width
        if self.plan.source in found:
            self.guesses = found[self.plan.source][: self.plan.most]
        elif len(self.waiting) >= width:
            self.plan = PLAIN
        elif self.plan.source == "denoised":
            tokens = self.request.draws.initial(self.block, width)
            known = mx.array(self.waiting + [-1] * (width - len(self.waiting)), dtype=mx.int32)
            self.canvas = first_canvas(tokens, self.model.no_signal(width), known)

    def _worth_verifying(self, proposed: list[int], probabilities: np.ndarray) -> list[int]:
        """The beginning of a draft that is handed to verification."""
        guesses = self._until_stop(proposed)[: self._left()]
        assert self.plan is not None
        return guesses[: self.drafting.verified(self.plan, probabilities[: len(guesses)].tolist())]

    def _until_stop(self, tokens: list[int]) -> list[int]:
        """The tokens before the first stop token, which comes of itself."""
        stops = self.request.settings.eos_token_id
        return tokens[: next((index for index, token in enumerate(tokens) if token in stops), len(tokens))]
