"""Fills a gap between two texts: what most callers of `infill` need.

Only what stands in the gap is ever decoded, so that what was given stays as it is. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Unpack

from mlx_diffusion.canvas_prompts import context_prompt, gaps_prompt
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.errors import PromptError
from mlx_diffusion.events import Event
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.gaps import Length, TextGap
from mlx_diffusion.filling.long_gaps import check_room, filled
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.option_keywords import GenerationOptions
from mlx_diffusion.options import GenerationConfig
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
    is_over: Callable[[str], bool] = lambda text: False,
    **options: Unpack[GenerationOptions],
) -> Iterator[Event]:
    """Write what belongs between `prefix` and `suffix`, as events whose `.text`, joined, is what stands in the gap.

    gap_tokens   how many tokens the gap's text has by itself, where that is known
    context      what is asked for, or what there is to know of the text
    language     what the text is in, as "Python" or "French"
    show_text    whether the prompt shows the text with its gap, beside the canvas. When not given, only where there is
                 no context, or where what comes behind the gap is too long for the canvas
    config, options  as in `stream_generate`, of the denoising modes; max_tokens is that of the gap, half a canvas when
                 not given. What may be longer than a canvas is written over several
    prefixes     a `PrefixStore` of this model: what it has kept is not encoded again
    is_over      asked behind each canvas of a long gap, with the gap's text so far: whether no more of it is wanted

    `Draft` events show the canvas that is denoised to the end; a `Segment` brings the text of each. Raises
    `PromptError` and `OptionError` for bad values, before any work is done.
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
        is_over=is_over,
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
    is_over: Callable[[str], bool] = lambda text: False,
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

    def first_of(known: Sequence[str]) -> TextGap:
        said = gaps_prompt(known, context, language) if show_text else context_prompt(context, language)
        return TextGap(known[0], known[1], canvases.prompt(said), len(known) == 2)

    def events() -> Iterator[Event]:
        known = list(parts)
        for row in range(len(parts) - 1):
            written = ""
            for event in filled(canvases, first_of(known), length, is_over):
                written += event.text
                yield replace(event, row=row)
            known[:2] = [known[0] + written + known[1]]

    check_room(canvases, first_of(parts), length)
    return events()
