"""Gaps that fit onto one canvas, any number of them side by side: each filled between what is known on either side.

Only what stands in a gap is ever decoded, so that what was given stays as it is. Knows nothing of files or forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.trial import Trial
from mlx_diffusion.errors import OptionError
from mlx_diffusion.events import Draft, Event, Finish, Prefill, Segment
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.lengths import OpenGap, best_places
from mlx_diffusion.filling.places import NEAR, Surroundings
from mlx_diffusion.filling.seams import Seams
from mlx_diffusion.option_checks import check_integer
from mlx_diffusion.text_stream import TextStream

SHORTEST_CANVAS = 8  # positions, of which a gap and both of its seams have six


@dataclass(frozen=True)
class TextGap:
    """A gap in a text: what is known on either side, and the prompt whose answer the text is."""

    before: str
    after: str
    prompt: tuple[int, ...]
    ends: bool  # the text ends behind `after`; if not, something follows that is not known


@dataclass(frozen=True)
class Length:
    """How many tokens the text of a gap may have, by itself."""

    least: int
    most: int

    @classmethod
    def of(cls, canvases: Canvases, most: int | None, exactly: int | None) -> Length:
        """As callers say it: half a canvas at most where they say nothing. Raises `OptionError`."""
        if canvases.longest < SHORTEST_CANVAS:
            raise OptionError(
                f"canvas_length is {canvases.longest}; to fill a gap it must be {SHORTEST_CANVAS} or more"
            )
        context = canvases.model.config.max_position_embeddings
        for name, value, least in (("max_tokens", most, 1), ("gap_tokens", exactly, 0)):
            check_integer(name, value, least, context)
        if exactly is None:
            return cls(0, min(cls.on_one_canvas(canvases), canvases.longest // 2) if most is None else most)
        if most is not None and exactly > most:
            raise OptionError(f"gap_tokens is {exactly} and max_tokens is {most}; leave one of them out")
        return cls(exactly, exactly)

    @staticmethod
    def on_one_canvas(canvases: Canvases) -> int:
        """Tokens of the longest gap for which a canvas has room, beside its seams and what is near."""
        return canvases.longest - near(canvases) - 2

    def counts(self, off: int) -> range:
        """How many positions may be open, where `off` tokens were taken off the seams.

        A gap whose tokens straddle them has fewer than by itself.
        """
        return range(max(1, self.least - (off > 0)), max(1, self.most + off) + 1)


def near(canvases: Canvases) -> int:
    """Positions of a canvas that are left for what stands next to a gap."""
    return min(NEAR, canvases.longest // 4)


@dataclass(frozen=True)
class TornGap:
    """A gap at work: its seams as they are now, and what may stand between them."""

    canvases: Canvases
    gap: TextGap
    length: Length
    seams: Seams

    @classmethod
    def of(cls, canvases: Canvases, gap: TextGap, length: Length) -> TornGap:
        return cls(canvases, gap, length, Seams.opened(canvases.tokenizer, gap.before, gap.after))

    @property
    def sought(self) -> OpenGap:
        """The same as tokens."""
        around = Surroundings(self.seams.before, self.seams.after, self.canvases.stop if self.gap.ends else None)
        return OpenGap(self.gap.prompt, around, self.length.counts(self.seams.off), self._fits)

    def found_in(self, text: str) -> str | None:
        """What stands in the gap where this stands in the open place; None where it may not stand there."""
        found = self.seams.gap_in(text)
        if found is None or not self.seams.off:
            return found
        count = len(self.canvases.tokenizer.encode_text(found))
        return found if self.length.least <= count <= self.length.most else None

    def closed(self, text: str) -> TornGap:
        """The same with the seams closed that this text of the open place does not keep."""
        return replace(self, seams=self.seams.closed(text))

    def _fits(self, tokens: Sequence[int]) -> bool:
        ended = any(token in self.canvases.settings.eos_token_id for token in tokens)
        return not ended and self.found_in(text_of(self.canvases, tokens)) is not None


def filled_together(
    canvases: Canvases, gaps: Sequence[TextGap], length: Length, trials: list[Trial]
) -> Iterator[Event]:
    """Fill gaps side by side: `Draft` events, and for each the `Segment` with what stands in it, and `Finish`.

    An event's `row` is the number of its gap. The figures are those of the canvas that was denoised to the end; trials:
    what was tried before is added.
    """
    torn = {row: TornGap.of(canvases, gap, length) for row, gap in enumerate(gaps)}
    while torn:
        rows = list(torn)
        sought = [own.sought for own in torn.values()]
        places = best_places(canvases, sought, trials)
        requests = [canvases.request(own.prompt, place) for own, place in zip(sought, places, strict=True)]
        tokens, finishes = dict[int, tuple[int, ...]](), dict[int, Finish]()
        for event in run(canvases.model, canvases.tokenizer, requests):
            row = rows[event.row]
            if isinstance(event, Segment):
                tokens[row] = event.tokens[places[event.row].open]
            elif isinstance(event, Finish):
                finishes[row] = event
            elif isinstance(event, Draft | Prefill):
                yield replace(event, row=row)
        for row in rows:
            text = text_of(canvases, tokens[row])
            found = torn[row].found_in(text)
            if found is None:
                torn[row] = torn[row].closed(text)
                continue
            del torn[row]
            stats = replace(finishes[row].stats, generated_tokens=len(tokens[row]))
            yield Segment(0, tokens[row], found, row)
            yield Finish("stop", stats, row)


def text_of(canvases: Canvases, tokens: Sequence[int]) -> str:
    """The text of an open place; a token that ends texts is none."""
    hidden = {canvases.model.config.pad_token_id, *canvases.settings.eos_token_id}
    return TextStream(canvases.tokenizer, hidden).push(tokens, last=True)
