"""A row's canvases held to its guide: after each step its most likely tokens are walked through, and repaired.

Knows nothing of other rows, of prompts or of how a step is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.rules import Rules
from mlx_diffusion.engine.step import Stepped, Turn
from mlx_diffusion.events import Draft
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.structure.following import Followed
from mlx_diffusion.structure.guide import Guide
from mlx_diffusion.structure.walking import Walked, settle, walk

REPAIRS = 8  # of a canvas between two steps: early canvases are wrong in most places, and nobody sees all of it
RUN = 16  # positions whose logits are computed together, where one of them is wanted


@dataclass
class CanvasGuide:
    """The guide at the beginning of the canvas at work."""

    guide: Guide
    model: DiffusionGemma
    hidden: mx.array | None = None  # [L, D], after the final norm, of the last time that a position was looked at

    def hold(
        self, turn: Turn, stepped: Stepped, draft: Draft, finished: bool, last: bool
    ) -> tuple[Stepped, Draft, bool, Walked]:
        """A step's outcome as the guide allows it, whether the canvas is finished by the rules, and the walk.

        What is replaced is seen by the next step. last: there is none, so that the walk goes through to the end.
        """
        walked = self._walk(turn, stepped, draft.argmax.tolist(), last)
        if not walked.repaired and walked.whole:
            return stepped, draft, finished, walked
        argmax = np.array(walked.tokens, np.int32)
        survey = stepped.canvas.survey._replace(argmax=mx.array(argmax))
        tokens = np.array(stepped.canvas.tokens)
        seen = draft.accepted & (argmax != draft.argmax)
        streak = int(np.array(turn.canvas.streak)) + 1 if self._same(turn, argmax) else 0
        calm = _is_calm(turn.rules, streak, draft) and walked.whole
        canvas = stepped.canvas._replace(
            tokens=mx.array(np.where(seen, argmax, tokens)), survey=survey, streak=mx.array(streak)
        )
        whole = mx.array(len(argmax), dtype=mx.int32)  # no position may leave: the text's end is another
        return stepped._replace(canvas=canvas, needed=whole), replace(draft, argmax=argmax), calm, walked

    def settle(self, walked: Walked, room: int) -> Followed:
        """The canvas is final; the guide goes on to its end."""
        final = settle(self.guide, walked, room)
        if final.guide is not None:
            self.guide = final.guide
        self.hidden = None
        return final

    def _walk(self, turn: Turn, stepped: Stepped, proposed: list[int], last: bool) -> Walked:
        positions, new = turn.surveyed, stepped.hidden
        assert new is not None
        if positions is not None and self.hidden is not None:
            old = self.hidden[: len(proposed)]
            index = mx.broadcast_to(positions[:, None], new.shape)
            new = mx.put_along_axis(old, index, new.astype(old.dtype), axis=0)
        self.hidden = new
        known: dict[int, np.ndarray] = {}

        def logits(place: int) -> np.ndarray:
            first = place - place % RUN
            if first not in known:
                known[first] = np.array(self.model.unembed(new[first : first + RUN]))
            row: np.ndarray = known[first][place - first]
            return row

        return walk(self.guide, proposed, logits, len(proposed) if last else REPAIRS)

    def _same(self, turn: Turn, argmax: np.ndarray) -> bool:
        return np.array_equal(np.array(turn.canvas.survey.argmax), argmax)


def _is_calm(rules: Rules, streak: int, draft: Draft) -> bool:
    """The published rule of an end, of repaired tokens."""
    return streak >= int(np.array(rules.stability)) and float(draft.entropy.mean()) < float(np.array(rules.confidence))
