"""Turns one denoising step into text to show, each part with a level that says how dim it is.

Takes `Draft` events and a callable that turns token ids into text. Knows nothing of models, tokenizers or terminals.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlx_diffusion.channels import Kind, kind_after
from mlx_diffusion.cli.chat.cells import Run, printable
from mlx_diffusion.events import Draft

SETTLED = 0
LEVEL_EDGES = (0.5, 1.5, 3.0)  # nats; an open token is at level 1 to 4, the dimmer the more entropy it has
DIMMEST = len(LEVEL_EDGES) + 1
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SPECIAL = re.compile(r"<unused\d+>|<\|?[a-z_]+\|>|<\|[a-z_\"]+\|?>|<mask>|<unk>")


@dataclass(frozen=True)
class Look:
    """One step: text in runs of one level each, the answer and the thought apart."""

    answer: list[Run]
    thought: list[Run]
    settled: float  # share of the canvas


@dataclass
class CanvasText:
    """Makes the text of denoising steps, one after another; remembers the text of tokens."""

    decode: Callable[[Sequence[int]], str]
    markers: Mapping[int, str] = field(default_factory=dict)
    stops: Collection[int] = ()  # a text ends before the first of these that is settled
    hidden: Collection[int] = ()  # no text: padding
    verified: bool = False  # steps are of drafts: nothing of them is settled before a pass has verified it
    _texts: dict[int, str] = field(default_factory=dict)

    def look(self, draft: Draft, kind: Kind = "answer") -> Look:
        """The text of a step; `kind` is that of the text where the canvas begins."""
        settled = draft.accepted & (not self.verified)
        levels = np.where(settled, SETTLED, 1 + np.digitize(draft.entropy, LEVEL_EDGES)).tolist()
        tokens = draft.argmax.tolist()
        runs: dict[Kind, list[Run]] = {"answer": [], "thought": [], "tool": []}
        naming = False  # a thought begins with a line that names the channel
        for first, end in self._characters(tokens):
            level = max(levels[first:end])
            token = tokens[first]
            if token in self.stops and level <= SETTLED + self.verified:
                break
            if token in self.stops or token in self.hidden:
                continue
            text = self._text(token) if end == first + 1 else printable(self.decode(tokens[first:end]))
            if token in self.markers:
                if level <= 1:
                    kind = kind_after(kind, self.markers[token])
                    naming = self.markers[token] == "<|channel>"
            elif _SPECIAL.fullmatch(text):
                continue
            elif naming:
                naming = "\n" not in text
            else:
                runs[kind].append((text, level))
        return Look(runs["answer"], runs["thought"], float(settled.mean()))

    def _characters(self, tokens: list[int]) -> list[tuple[int, int]]:
        """Ranges of tokens that make whole characters: one token, or several that hold bytes of characters."""
        ranges: list[tuple[int, int]] = []
        in_run = False
        for index, token in enumerate(tokens):
            is_piece = REPLACEMENT in self._text(token)
            if is_piece and in_run:
                ranges[-1] = ranges[-1][0], index + 1
            else:
                ranges.append((index, index + 1))
            in_run = is_piece
        return ranges

    def _text(self, token: int) -> str:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = printable(self.decode([token]))
        return text
