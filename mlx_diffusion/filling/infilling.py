"""Fills a gap between two texts: what most callers of `infill` need.

Only what stands in the gap is ever decoded, so that what was given stays as it is. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from mlx_diffusion.canvas_prompts import context_prompt, gaps_prompt
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.engine.trial import Trial
from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.events import Draft, Event, Finish, Prefill, Segment, Stats
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.lengths import best_place
from mlx_diffusion.filling.places import NEAR, Surroundings
from mlx_diffusion.filling.seams import Seams
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.option_keywords import GenerationOptions
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.text_stream import TextStream
from mlx_diffusion.tokenizer import Tokenizer


def stream_infill(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    *,
    gap_tokens: int | None = None,
    context: str = "",
    language: str = "",
    show_text: bool | None = None,
    config: GenerationConfig | None = None,
    prefixes: PrefixStore | None = None,
    **options: Unpack[GenerationOptions],
) -> Iterator[Event]:
    """Write what belongs between `prefix` and `suffix`, as events whose `.text`, joined, is what stands in the gap.

    gap_tokens   how many tokens the gap has, where that is known
    context      what is asked for, or what there is to know of the text
    language     what the text is in, as "Python" or "French"
    show_text    whether the prompt shows the text with its gap, beside the canvas. When not given, only where there is
                 no context, or where what comes behind the gap is too long for the canvas
    config, options  as in `stream_generate`, of the denoising modes; max_tokens is that of the gap, half a canvas when
                 not given
    prefixes     a `PrefixStore` of this model: what it has kept is not encoded again

    `Draft` events show the canvas that is denoised to the end; one `Segment` brings the text. Raises `PromptError` and
    `OptionError` for bad values, before any work is done.
    """
    for name, text in (("prefix", prefix), ("suffix", suffix)):
        if not isinstance(text, str):
            raise PromptError(f"the {name} is of type {type(text).__name__}; pass text")
    if not (prefix or suffix or context):
        raise PromptError("there is no text on either side of the gap; pass a prefix, a suffix, or a context")
    return stream_gaps(
        model,
        tokenizer,
        [prefix, suffix],
        gap_tokens=gap_tokens,
        context=context,
        language=language,
        show_text=show_text,
        config=config,
        prefixes=prefixes,
        **options,
    )


def infill(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    *,
    gap_tokens: int | None = None,
    context: str = "",
    language: str = "",
    show_text: bool | None = None,
    config: GenerationConfig | None = None,
    prefixes: PrefixStore | None = None,
    **options: Unpack[GenerationOptions],
) -> str:
    """What belongs between `prefix` and `suffix`; arguments as in `stream_infill`."""
    events = stream_infill(
        model,
        tokenizer,
        prefix,
        suffix,
        gap_tokens=gap_tokens,
        context=context,
        language=language,
        show_text=show_text,
        config=config,
        prefixes=prefixes,
        **options,
    )
    return "".join(event.text for event in events)


def stream_gaps(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    parts: Sequence[str],
    *,
    gap_tokens: int | None = None,
    context: str = "",
    language: str = "",
    show_text: bool | None = None,
    config: GenerationConfig | None = None,
    prefixes: PrefixStore | None = None,
    **options: Unpack[GenerationOptions],
) -> Iterator[Event]:
    """Fill the gaps between the parts of a text, from the first to the last, each with all earlier ones in view.

    Arguments and events are those of `stream_infill`; an event's `row` is the number of its gap.
    """
    wishes = (config or GenerationConfig()).override(options)
    canvases = Canvases.of(model, tokenizer, wishes, prefixes)
    for name, text in (("context", context), ("language", language)):
        if not isinstance(text, str):
            raise PromptError(f"the {name} is of type {type(text).__name__}; pass text")
    length = Length.of(canvases, wishes.max_tokens, gap_tokens)
    behind = max([len(tokenizer.encode_text(part)) for part in parts][1:])  # refuses what is no Unicode, too
    if show_text is None:
        show_text = not context or behind > canvases.longest // 2

    def events() -> Iterator[Event]:
        known = list(parts)
        for row in range(len(parts) - 1):
            said = gaps_prompt(known, context, language) if show_text else context_prompt(context, language)
            gap = TextGap(known[0], known[1], canvases.prompt(said), len(known) == 2)
            written = ""
            for event in filled(canvases, gap, length):
                written += event.text
                yield replace(event, row=row)
            known[:2] = [known[0] + written + known[1]]

    return events()


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
    """How many tokens a gap may have."""

    least: int
    most: int

    @classmethod
    def of(cls, canvases: Canvases, most: int | None, exactly: int | None) -> Length:
        """Raises `OptionError` for a gap that does not fit onto a canvas."""
        if canvases.longest < SHORTEST_CANVAS:
            raise OptionError(
                f"canvas_length is {canvases.longest}; to fill a gap it must be {SHORTEST_CANVAS} or more"
            )
        room = canvases.longest - min(NEAR, canvases.longest // 4)
        for name, value, least in (("max_tokens", most, 1), ("gap_tokens", exactly, 0)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= room - 2:
                raise OptionError(
                    f"{name} is {value!r}; it must be {least} to {room - 2}, for a gap is filled on one canvas of "
                    f"{canvases.longest}"
                )
        if exactly is None:
            return cls(0, min(room - 2, canvases.longest // 2) if most is None else most)
        if most is not None and exactly > most:
            raise OptionError(f"gap_tokens is {exactly} and max_tokens is {most}; leave one of them out")
        return cls(exactly, exactly)

    def counts(self, off: int) -> range:
        """How many positions may be open, where `off` tokens were taken off the seams.

        A gap whose tokens straddle them has fewer than by itself.
        """
        return range(max(1, self.least - 1), max(1, self.most + off) + 1)


def filled(canvases: Canvases, gap: TextGap, length: Length) -> Iterator[Event]:
    """Fill a gap: `Draft` events, the `Segment` with what stands in it, and `Finish`."""
    seams, trials = Seams.opened(canvases.tokenizer, gap.before, gap.after), list[Trial]()
    while True:
        around = Surroundings(seams.before, seams.after, canvases.stop if gap.ends else None)

        def fits(tokens: Sequence[int], seams: Seams = seams) -> bool:
            ended = any(token in canvases.settings.eos_token_id for token in tokens)
            return not ended and seams.gap_in(_text(canvases, tokens)) is not None

        place = best_place(canvases, gap.prompt, around, length.counts(seams.off), fits, trials)
        for event in run(canvases.model, canvases.tokenizer, [canvases.request(gap.prompt, place)]):
            if isinstance(event, Segment):
                tokens = event.tokens[place.open]
            elif isinstance(event, Finish):
                finish = event
            elif isinstance(event, Draft | Prefill):
                yield event
        text = _text(canvases, tokens)
        found = seams.gap_in(text)
        if found is not None:
            yield Segment(0, tuple(tokens), found)
            yield Finish("stop", _with_trials(finish.stats, trials, len(tokens)))
            return
        seams = seams.closed(text)


def _with_trials(stats: Stats, trials: Sequence[Trial], generated: int) -> Stats:
    """The figures of a gap: those of its last canvas, and what was tried before."""
    return replace(
        stats,
        cached_tokens=trials[0].cached_tokens if trials else stats.cached_tokens,
        generated_tokens=generated,
        passes=stats.passes + sum(trial.passes for trial in trials),
        denoising_steps=stats.denoising_steps + sum(trial.steps for trial in trials),
        decoder_positions=stats.decoder_positions + sum(trial.decoder_positions for trial in trials),
        encoder_positions=stats.encoder_positions
        + sum(trial.encoder_positions + trial.judged_positions for trial in trials),
    )


def _text(canvases: Canvases, tokens: Sequence[int]) -> str:
    """The text of an open place; a token that ends texts is none."""
    hidden = {canvases.model.config.pad_token_id, *canvases.settings.eos_token_id}
    return TextStream(canvases.tokenizer, hidden).push(tokens, last=True)
