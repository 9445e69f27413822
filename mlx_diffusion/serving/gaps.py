"""Gaps that requests ask to be filled: what each interface calls its two sides, as one kind of work for the engine.

Knows nothing of HTTP, or of how a gap is filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlx_diffusion.events import Event, Finish, Segment
from mlx_diffusion.filling.infilling import stream_infill
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.jobs import Wish
from mlx_diffusion.serving.openai_requests import CompletionRequest
from mlx_diffusion.serving.problems import bad, check_tokens
from mlx_diffusion.serving.service import Service, Wanted
from mlx_diffusion.text_stream import UntilStop


def gap_wish(service: Service, prefix: str, suffix: str, config: GenerationConfig, context: str = "") -> Wish:
    """The wish for one gap. Raises OptionError, PromptError and RequestError for one that cannot be filled.

    The steps are those of `stream_infill`, which end behind the canvas with the first stop string; the tokens are those
    of the two sides.
    """
    engine = service.engine
    settings = engine.model.generation_defaults.resolve(config)
    check_tokens(config.max_tokens, engine.limits.max_tokens)
    found = stream_infill(
        engine.model,
        engine.tokenizer,
        prefix,
        suffix,
        context=context,
        config=replace(config, stop=None),
        prefixes=engine.prefixes,
        is_over=lambda text: any(stop in text for stop in settings.stop),
    )
    tokens = engine.tokenizer.encode(prefix + suffix, add_special_tokens=False)
    return Wish(tokens, settings, work=cut(found, settings.stop))


def gaps_of(service: Service, body: CompletionRequest) -> Wanted:
    """The gaps between the prompts of a completion and its suffix.

    Raises OptionError, PromptError and RequestError.
    """
    service.check_name(body.model)
    if body.wanted_form is not None:
        raise bad("a gap is held to no form; leave constraint or format out, or suffix", "suffix")
    body = body.model_copy(update={"mode": service.canvas_mode(body.mode) or "reference"})
    gaps = Wanted()
    settings = service.settings(body)
    if len(body.prompts) * len(settings) > service.engine.limits.max_choices:
        raise bad(f"prompts times n is more than {service.engine.limits.max_choices}, which is the most here", "n")
    for prompt in body.prompts:
        if not isinstance(prompt, str):
            raise bad("with a suffix the prompt must be text", "prompt")
        for own in settings:
            config = replace(body.config(service.defaults, service.engine.limits), seed=own.seed)
            gaps.append(gap_wish(service, prompt, body.suffix or "", config))
    return gaps


def cut(events: Iterator[Event], stops: Sequence[str]) -> Iterator[Event]:
    """The same events with the text of segments, which join, cut before the first of the stop strings."""
    text, last = UntilStop(stops), Segment(0, (), "")
    for event in events:
        if isinstance(event, Segment):
            last, event = event, replace(event, text=text.push(event.text))
        elif isinstance(event, Finish) and (rest := text.push("", last=True)):
            yield replace(last, tokens=(), text=rest)
        yield event
