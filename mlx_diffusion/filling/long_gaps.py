"""Gaps of any length: a long one is written canvas by canvas, until the text behind it is in sight.

The beginning of a long gap is written as any text is, with the prompt alone to tell of what comes behind it. Once what
is written there goes on as the text behind the gap does, that canvas is written anew, with both sides in their places.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_diffusion.display import count_of
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.trial import Trial
from mlx_diffusion.errors import PromptError
from mlx_diffusion.events import Draft, Event, Finish, Segment, Stats
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.gaps import Length, TextGap, TornGap, filled_together, near
from mlx_diffusion.filling.lengths import shares_of
from mlx_diffusion.filling.places import Surroundings, places
from mlx_diffusion.filling.seams import Seams
from mlx_diffusion.text_stream import TextStream

IN_SIGHT = 0.75  # share of what stands behind a gap that a canvas must have in its place
NOTHING = Stats(0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, None, 0)


@dataclass(frozen=True)
class Beginning:
    """One canvas on which a long gap begins, with nothing behind the gap in view."""

    written: tuple[int, ...]  # all of it that is free
    kept: tuple[int, ...]  # its first part, for the text behind the gap may begin further on, unseen
    text: str  # of the gap, in what is kept
    stats: Stats


def check_room(canvases: Canvases, gap: TextGap, length: Length) -> None:
    """Raise `PromptError` where the context has no room for a gap and the text before it."""
    one = Length.on_one_canvas(canvases)
    if length.most > one:
        _check_context(canvases, gap, length)
    elif length.most:
        sought = TornGap.of(canvases, gap, length).sought
        canvases.request(sought.prompt, sought.places(canvases)[-1])


def filled(canvases: Canvases, gap: TextGap, length: Length, is_over: Callable[[str], bool]) -> Iterator[Event]:
    """Fill a gap: `Draft` events, a `Segment` for the text of each canvas, and `Finish`. Raises `PromptError`.

    is_over: given the gap's text so far, behind each canvas, whether no more of it is wanted.
    """
    if length.most == 0:
        yield Segment(0, (), "")
        yield Finish("stop", replace(NOTHING, prompt_tokens=len(gap.prompt)))
        return
    trials, spent, block, one = list[Trial](), list[Stats](), 0, Length.on_one_canvas(canvases)
    before = len(gap.before)
    if length.most > one:
        _check_context(canvases, gap, length)
    while length.most > one:
        begun = yield from _begun(canvases, gap, block)
        spent.append(begun.stats)
        if not begun.text or (length.least <= one and _is_in_sight(canvases, gap, begun.written)):
            break  # where there is no text, the model would end it here
        yield Segment(block, begun.kept, begun.text)
        count = len(canvases.tokenizer.encode_text(begun.text))
        gap, block = replace(gap, before=gap.before + begun.text), block + 1
        if is_over(gap.before[before:]):
            yield Finish("stop", replace(_summed(spent, trials), blocks=block))
            return
        length = Length(max(0, length.least - count), max(1, length.most - count))
    length = Length(min(length.least, one), min(length.most, one))
    for event in filled_together(canvases, [gap], length, trials):
        if isinstance(event, Finish):
            yield replace(event, stats=replace(_summed([*spent, event.stats], trials), blocks=block + 1))
        else:
            yield replace(event, block=block) if isinstance(event, Draft | Segment) else event


def _check_context(canvases: Canvases, gap: TextGap, length: Length) -> None:
    count = len(gap.prompt) + len(canvases.tokenizer.encode_text(gap.before))
    context = canvases.model.config.max_position_embeddings
    room = context - count - canvases.longest
    if length.most > room:
        raise PromptError(
            f"the text before the gap and its prompt have {count_of(count, 'token')}; in a context of {context} they "
            f"leave room for a gap of {max(room, 0)}, and it may have {length.most}; shorten the text, or ask for less"
        )


def _is_in_sight(canvases: Canvases, gap: TextGap, written: Sequence[int]) -> bool:
    """Whether the text behind a gap begins in what is written on a canvas."""
    behind = TornGap.of(canvases, gap, Length(0, 1)).sought.behind
    places = range(len(written) - canvases.longest // 8 + 1)
    return bool(shares_of(behind, np.array(written), places, canvases.settings.eos_token_id).max() >= IN_SIGHT)


def _begun(canvases: Canvases, gap: TextGap, block: int) -> Generator[Event, None, Beginning]:
    """Write the beginning of a long gap on one canvas: its `Draft` events. The last quarter of it is not kept."""
    seams, count = Seams.opened(canvases.tokenizer, gap.before, ""), canvases.longest - near(canvases)
    stops, hidden = canvases.settings.eos_token_id, {canvases.model.config.pad_token_id}
    while True:
        around = Surroundings(seams.before, (), None)
        (place,) = places(around, [count], canvases.longest, canvases.settings.canvas_length)
        for event in run(canvases.model, canvases.tokenizer, [canvases.request(gap.prompt, place)]):
            if isinstance(event, Segment):
                written = event.tokens[place.open]
            elif isinstance(event, Finish):
                stats = event.stats
            else:
                yield replace(event, block=block) if isinstance(event, Draft) else event
        end = next((n for n, token in enumerate(written) if token in stops), count)
        kept = written[: min(end, count - canvases.longest // 4)]
        text = TextStream(canvases.tokenizer, hidden).push(kept)
        if text.startswith(seams.begins) or not kept:
            return Beginning(written, kept, text.removeprefix(seams.begins), replace(stats, generated_tokens=len(kept)))
        seams = seams.closed(text)


def _summed(spent: Sequence[Stats], trials: Sequence[Trial]) -> Stats:
    """The figures of a gap: those of all its canvases, and of what was tried before."""
    return replace(
        spent[-1],
        prompt_tokens=spent[0].prompt_tokens,
        cached_tokens=trials[0].cached_tokens if trials and len(spent) == 1 else spent[0].cached_tokens,
        generated_tokens=sum(own.generated_tokens for own in spent),
        passes=sum(own.passes for own in spent) + sum(trial.passes for trial in trials),
        denoising_steps=sum(own.denoising_steps for own in spent) + sum(trial.steps for trial in trials),
        decoder_positions=sum(own.decoder_positions for own in spent)
        + sum(trial.decoder_positions for trial in trials),
        encoder_positions=sum(own.encoder_positions for own in spent)
        + sum(trial.encoder_positions + trial.judged_positions for trial in trials),
        prompt_seconds=sum(own.prompt_seconds for own in spent),
        generation_seconds=sum(own.generation_seconds for own in spent),
    )
