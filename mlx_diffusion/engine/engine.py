"""The engine: requests come and go, and each call advances all of them by one pass of the network.

A pass encodes the next parts of prompts, finished canvases, and tokens with the drafts behind them; or it lets every
canvas take a denoising step. A row that has ended leaves at once. Knows nothing of prompts as text, of terminals or of
who asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_diffusion.device import on_cpu
from mlx_diffusion.engine.causal_row import CausalRow
from mlx_diffusion.engine.choice import Choice
from mlx_diffusion.engine.denoising_row import DenoisingRow
from mlx_diffusion.engine.memory_limits import memory_limits
from mlx_diffusion.engine.pass_order import PassOrder, are_half_way
from mlx_diffusion.engine.pauses import pause
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.row import Row
from mlx_diffusion.engine.step import Stepped, Turn, step, step_beside
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.events import Draft, Event, Prefill
from mlx_diffusion.modes import CAUSAL
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.processes import computing
from mlx_diffusion.tokenizer import Tokenizer

DAMAGED = "its weights are damaged or were converted wrongly; download or convert the checkpoint again"


def run(model: DiffusionGemma, tokenizer: Tokenizer, requests: Sequence[Request]) -> Iterator[Event]:
    """All requests together, until the last has ended; their events carry their places in the list as `row`."""
    with memory_limits():
        mx.reset_peak_memory()
        engine = Engine(model, tokenizer)
        for request in requests:
            engine.add(request)
        while engine:
            pause()
            events = engine.advance()
            for error in engine.failed.values():
                raise error
            yield from events


class Begun(NamedTuple):
    """A step of one row that is lazy or under way."""

    turn: Turn
    stepped: Stepped
    flags: mx.array  # bool [2]: whether the rules call the canvas finished, and whether the model gives NaN


class Engine:
    """Rows of one model, each with its own prompt, settings, age, canvas length and end."""

    def __init__(self, model: DiffusionGemma, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.failed: dict[int, CheckpointError] = {}  # rows that the last pass ended without a `Finish`, and why
        self._rows: dict[int, Row] = {}
        self._added = 0
        self._order = PassOrder()
        self.runs_ahead = not on_cpu()  # begin the next steps before the last are read: a GPU would stand idle
        self._begun: dict[int, Begun] = {}  # steps that are under way, by row

    def __len__(self) -> int:
        """How many rows are under way."""
        return len(self._rows)

    @property
    def is_half_way(self) -> bool:
        """Whether all rows only go on with long prompts."""
        return are_half_way(self._rows.values())

    @computing()
    def add(self, request: Request) -> int:
        """Admit a request between two passes; returns the number that its events carry as `row`."""
        index = self._added
        kind = CausalRow if request.settings.mode in CAUSAL else DenoisingRow
        self._rows[index] = kind(index, request, self.model, self.tokenizer)
        self._added += 1
        return index

    def drop(self, index: int) -> None:
        """Let a row go between two passes, whatever it was at; one that has ended is gone already."""
        self._rows.pop(index, None)
        self._begun.pop(index, None)

    @computing()
    def advance(self) -> list[Event]:
        """Run one pass: parts of prompts, canvases and drafts to be encoded, or one denoising step.

        Returns what has happened, row by row. The work is done when this returns, but on a GPU for the canvases' next
        step: whoever drops a row or stops calling leaves no more than that behind. A row for which the model gives NaN
        leaves too, and is in `failed`; others go on.
        """
        self.failed = {}
        encoding = [row for row in self._rows.values() if row.encodes]
        denoising = [row for row in self._rows.values() if not row.encodes]
        is_encoding = self._order.encodes(encoding, denoising)
        events = self._encode(encoding) if is_encoding else self._denoise(denoising)
        for index in self.failed:
            self.drop(index)
        for row in [row for row in self._rows.values() if row.reason is not None]:
            events.append(row.finish())
            del self._rows[row.index]
        if self.runs_ahead and not any(row.encodes for row in self._rows.values()):
            self._begun |= self._begin([row for row in self._rows.values() if row.index not in self._begun])
            mx.async_eval(_arrays(self._begun.values()))
        return events

    def _encode(self, rows: Sequence[Row]) -> list[Event]:
        """Encode the next part of as many rows as go together. They then queue up anew."""
        scheduled = self._order.passages(rows)
        chosen, passages = list(scheduled), list(scheduled.values())
        hidden = self.model.encode(passages)
        choices, beside = self._choices(chosen, passages, hidden), self._steps_beside(chosen, passages, hidden)
        drafted = [_shown(turn, one) for turn, one in beside.values()]  # and no signal for a step that never comes
        mx.eval([passage.cache.arrays() for passage in passages], [own for own in choices if own is not None], drafted)
        events: list[Event] = []
        for row, passage, choice in zip(chosen, passages, choices, strict=True):
            if choice is not None and choice.is_nan.item():
                where = f"position {row.cache.offset - 1}"
                self.failed[row.index] = CheckpointError(f"the model gives NaN at {where}: {DAMAGED}")
                continue
            in_prompt = row.in_prompt
            encoded = row.take_encoded(passage.tokens.shape[0], choice)
            if in_prompt and not row.in_prompt:
                mx.clear_cache()  # the arrays of a prompt's parts are larger than those of all that follows
            if row.index in beside:  # judged by what the encoder chose, and shown before it
                turn, one = beside[row.index]
                events += row.take_step(turn, one, _draft(row, turn, one), finished=False)
            events += encoded
            self._rows[row.index] = self._rows.pop(row.index)
            if in_prompt and row.in_prompt:
                events.append(Prefill(row.cache.offset, len(row.request.tokens), row.index))
        return events

    def _choices(self, rows: Sequence[Row], passages: Sequence[Passage], hidden: mx.array) -> Sequence[Choice | None]:
        """What the rows choose at the positions that they look at; lazy."""
        if not any(passage.looked_at for passage in passages):
            return [None] * len(rows)
        logits, start = self.model.unembed(hidden[: _looked_at(passages)]), 0
        choices: list[Choice | None] = []
        for row, passage in zip(rows, passages, strict=True):
            end = start + (passage.looked_at or 0)
            choices.append(row.choose(logits[start:end]) if end > start else None)
            start = end
        return choices

    def _steps_beside(
        self, rows: Sequence[Row], passages: Sequence[Passage], hidden: mx.array
    ) -> dict[int, tuple[Turn, Stepped]]:
        """The steps of the canvases that went through the layers beside the passages, by row; lazy."""
        turns = {row.index: row.turn() for row, one in zip(rows, passages, strict=True) if one.canvas is not None}
        if not turns:
            return {}
        stepped = step_beside(self.model, list(turns.values()), hidden[_looked_at(passages) :])
        return {index: (turns[index], one) for index, one in zip(turns, stepped, strict=True)}

    def _denoise(self, rows: Sequence[Row]) -> list[Event]:
        """Let every row take a denoising step, and take in the canvases that are finished."""
        begun = self._begun | self._begin([row for row in rows if row.index not in self._begun])
        self._begun = {}
        mx.eval(_arrays(begun.values()))
        events: list[Event] = []
        for row in rows:
            turn, stepped, flags = begun[row.index]
            self._order.denoised((turn.canvas.tokens if turn.positions is None else turn.positions).shape[0])
            finished, is_nan = np.array(flags).tolist()
            if is_nan:
                where = f"block {row.block}, step {row.step}"
                self.failed[row.index] = CheckpointError(f"the model gives NaN at {where}: {DAMAGED}")
                continue
            events += row.take_step(turn, stepped, _draft(row, turn, stepped), finished)
        return events

    def _begin(self, rows: Sequence[Row]) -> dict[int, Begun]:
        """The next steps of these rows, taken together; lazy."""
        if not rows:
            return {}
        begun = {}
        turns = [row.turn() for row in rows]
        for row, turn, one in zip(rows, turns, step(self.model, turns), strict=True):
            flags = mx.stack([one.finished, mx.isnan(one.canvas.survey.entropy).any()])
            begun[row.index] = Begun(turn, _without_rest(turn, one), flags)
        return begun


def _arrays(begun: Iterable[Begun]) -> list[object]:
    """All that is to be evaluated of steps."""
    return [(one.flags, one.stepped, one.turn.canvas.tokens) for one in begun]


def _looked_at(passages: Sequence[Passage]) -> int:
    """How many positions of all passages somebody looks at."""
    return sum(passage.looked_at or 0 for passage in passages)


def _shown(turn: Turn, one: Stepped) -> tuple[mx.array, ...]:
    """What a draft's event is made of, and what its row takes from it."""
    found = one.canvas.survey
    return turn.canvas.tokens, found.argmax, one.accepted, found.entropy, found.probability, one.canvas.tokens


def _draft(row: Row, turn: Turn, one: Stepped) -> Draft:
    """The event of a step that has been evaluated and not yet been taken in."""
    canvas, argmax, accepted, entropy = map(np.array, _shown(turn, one)[:4])
    forwarded = None if turn.positions is None else turn.positions.shape[0]
    return Draft(row.block, row.step, canvas, argmax, accepted, entropy, row.index, forwarded)


def _without_rest(turn: Turn, one: Stepped) -> Stepped:
    """The same without the keys and values of the canvas where no position of it ever rests: they are never made."""
    return one if turn.policy.focus is not None else one._replace(canvas=one.canvas._replace(kept=()))
