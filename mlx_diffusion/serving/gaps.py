"""Gaps that requests ask to be filled: what each interface calls its two sides, as one kind of work for the engine.

Knows nothing of HTTP, or of how a gap is filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlx_diffusion.events import Event, Segment
from mlx_diffusion.filling.infilling import stream_infill
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.serving.jobs import Wish
from mlx_diffusion.serving.openai_requests import CompletionRequest
from mlx_diffusion.serving.problems import bad
from mlx_diffusion.serving.service import Service, Wanted


def gap_wish(service: Service, prefix: str, suffix: str, config: GenerationConfig, context: str = "") -> Wish:
    """The wish for one gap. Raises OptionError and PromptError for one that cannot be filled.

    config: its `max_tokens` is a bound, and one beyond the longest gap asks for no more than that.

    The steps are those of `stream_infill`, with what stands behind the first stop string left out; the tokens are those
    of the two sides.
    """
    engine = service.engine
    settings = engine.model.generation_defaults.resolve(config)
    if config.max_tokens is not None and config.max_tokens >= engine.model.config.canvas_length // 2:
        config = replace(config, max_tokens=None)
    found = stream_infill(
        engine.model,
        engine.tokenizer,
        prefix,
        suffix,
        context=context,
        config=replace(config, stop=None),
        prefixes=engine.prefixes,
    )
    tokens = engine.tokenizer.encode(prefix + suffix, add_special_tokens=False)
    return Wish(tokens, settings, work=cut(found, settings.stop))


def gaps_of(service: Service, body: CompletionRequest) -> Wanted:
    """The gaps between the prompts of a completion and its suffix.

    Raises OptionError, PromptError and RequestError.
    """
    service.check_name(body.model)
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
    """The same events with the text of segments cut before the first of the stop strings."""
    for event in events:
        if isinstance(event, Segment):
            end = min((place for stop in stops if (place := event.text.find(stop)) >= 0), default=len(event.text))
            event = replace(event, text=event.text[:end])
        yield event
