"""The order of passes: which of them encode and which denoise, and whose tokens an encoding one takes along.

Canvases and prompts take turns, so that nobody waits for a long prompt: between two parts of one, the canvases have as
many positions as a part. Knows nothing of how a pass is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlx_diffusion.engine.row import Row
from mlx_diffusion.network.rows import Passage

PATIENCE = 3  # passes that leave somebody out before they go by who has waited longest
BESIDE = 8  # into so many parts a prompt's part is divided, and one more of them is encoded beside it


class PassOrder:
    """Remembers who had the last passes."""

    def __init__(self) -> None:
        self._encoded_last = False
        self._left_out = 0  # how many passes that encoded had no room for all, one after another
        self._owed = 0  # positions that canvases may have before the next part of a long prompt

    def encodes(self, encoding: Sequence[Row], denoising: Sequence[Row]) -> bool:
        """Whether the next pass is to encode, where these rows want it to and those do not."""
        waits = self._encoded_last or (self._owed > 0 and are_half_way(encoding))
        self._encoded_last = bool(encoding) and not (denoising and waits)
        return self._encoded_last

    def passages(self, rows: Sequence[Row]) -> dict[Row, Passage]:
        """The next parts of as many rows as a little more than the largest of their parts allows for.

        The little more is for who comes while a long prompt is encoded: its own is short, and goes with the next part
        of the long one, or ahead of it, as do all shorter parts. Who is left out again and again is then first.
        """
        largest = max(row.request.settings.prefill_step_size for row in rows)
        most = largest + largest // BESIDE
        chosen: dict[Row, Passage] = {}
        taken, self._owed = 0, largest
        for row in sorted(rows, key=_next_part) if self._left_out < PATIENCE else rows:
            passage = row.passage()
            if chosen and taken + passage.tokens.shape[0] > most:
                break
            chosen[row] = passage
            taken += passage.tokens.shape[0]
        self._left_out = self._left_out % PATIENCE + 1 if len(chosen) < len(rows) else 0
        return {row: chosen[row] for row in rows if row in chosen}

    def denoised(self, positions: int) -> None:
        """Canvases have had so many positions of a pass."""
        self._owed -= positions


def are_half_way(rows: Iterable[Row]) -> bool:
    """Whether all of these rows only go on with a prompt, which others need not wait for."""
    return all(row.in_prompt and row.encoder_positions for row in rows)


def _next_part(row: Row) -> int:
    """How many tokens of a row are encoded next."""
    return min(len(row.waiting), row.request.settings.prefill_step_size)
