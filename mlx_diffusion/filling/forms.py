"""Forms whose slots are filled in, each with what may stand in it: what most callers of `fill` need.

Slots are filled from the first to the last, those of many forms side by side. Among choices the most probable whole one
is taken. Free text is infilled, with both sides in view. Anything else is written under a constraint that spells the
slot and the text behind it, so that it can be nothing but valid, and ends where that text begins. Knows nothing of how
constraints are held.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np

from mlx_diffusion.canvas_prompts import context_prompt, gaps_prompt
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.guides import guide_of
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.trial import Trial
from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.filling.candidates import Candidates, by_encoder, check_different
from mlx_diffusion.filling.canvases import Canvases
from mlx_diffusion.filling.gaps import Length, TextGap, filled_together
from mlx_diffusion.filling.places import Place
from mlx_diffusion.filling.seams import Seams
from mlx_diffusion.filling.slots import Slot, split_template
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.option_keywords import GenerationOptions
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.structure.constraint import read_constraint
from mlx_diffusion.tokenizer import Tokenizer

BEHIND = 24  # characters behind a slot that its constraint spells


@dataclass
class Form:
    """A form at work: the prompt whose answer it is, what is written of it so far, and what its slots got."""

    prompt: tuple[int, ...]
    written: str
    found: dict[str, dict[str, Any]] = field(default_factory=dict)


def fill(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    template: str,
    slots: Mapping[str, Any],
    context: str | Sequence[str] = "",
    *,
    language: str = "",
    show_text: bool | None = None,
    config: GenerationConfig | None = None,
    prefixes: PrefixStore | None = None,
    **options: Unpack[GenerationOptions],
) -> dict[str, dict[str, Any]] | list[dict[str, dict[str, Any]]]:
    """Fill the slots of a form.

    template     the text, in which `{name}` is a slot; other braces are text
    slots        what may stand in each, by name: "text" (one line), "integer", "number", "boolean", "date" (as
                 YYYY-MM-DD), a list of choices, or a dict: {"type": "text", "max_tokens": 8}, {"type": "regex",
                 "pattern": "…"}
    context      what the form is about; a list of contexts fills as many forms, side by side
    language     what the form is in, as "French"
    show_text    whether the prompt shows the form with its gaps; when not given, only where there is no context
    config, options  as in `stream_generate`: the seed, for instance
    prefixes     a `PrefixStore` of this model: what it has kept is not encoded again

    Returns for each name `value`, `text` and `probability`: of a choice among the choices, else the encoder's of the
    slot's text. Raises `OptionError` and `PromptError` before any work is done.
    """
    if not isinstance(slots, Mapping):
        raise OptionError(f"slots is {slots!r}; write a dict of what may stand in each, by name")
    parts, names = split_template(template, list(slots))
    read = [Slot.read(name, slots[name]) for name in names]
    if not isinstance(context, str | Sequence):
        raise PromptError(f"the context is of type {type(context).__name__}; pass text, or a list of texts")
    contexts = [context] if isinstance(context, str) else list(context)
    for what, one in (("the language", language), *(("a context", own) for own in contexts)):
        if not isinstance(one, str):
            raise PromptError(f"{what} is of type {type(one).__name__}; pass text")
    canvases = Canvases.of(model, tokenizer, (config or GenerationConfig()).override(options), prefixes)
    forms = [Form(canvases.prompt(_said(parts, one, language, show_text)), parts[0]) for one in contexts]
    for slot in read:
        check_different(tokenizer, slot.choices, f"slot {slot.name!r}")
        if slot.kind == "regex":
            _check_pattern(canvases, slot)
    if not forms:
        return []
    for slot, behind, is_last in zip(read, parts[1:], [*[False] * (len(read) - 1), True], strict=True):
        texts, probabilities = _filled(canvases, forms, slot, behind, is_last)
        for form, text, probability in zip(forms, texts, probabilities, strict=True):
            form.found[slot.name] = {"value": slot.value(text), "text": text, "probability": probability}
            form.written += text + behind
    found = [form.found for form in forms]
    return found[0] if isinstance(context, str) else found


def _said(parts: Sequence[str], context: str, language: str, show_text: bool | None) -> str:
    shows = not context if show_text is None else show_text
    return gaps_prompt(parts, context, language) if shows else context_prompt(context, language)


def _filled(
    canvases: Canvases, forms: Sequence[Form], slot: Slot, behind: str, is_last: bool
) -> tuple[list[str], list[float]]:
    """What every form gets in a slot, and how probable that is; `behind` is the text up to the next slot."""
    if not slot.choices:
        texts = _infilled(canvases, forms, slot, behind, is_last) if slot.kind == "text" else [""] * len(forms)
        missing = [form for form, text in zip(forms, texts, strict=True) if not text]
        rest = iter(_written(canvases, missing, slot, behind) if missing else ())
        texts = [text or next(rest) for text in texts]
        return texts, _likelihoods(canvases, forms, texts)
    ends = (canvases.stop,) if is_last and canvases.stop is not None else ()
    rows = [
        Candidates(
            form.prompt,
            tuple((*canvases.tokenizer.encode_text(form.written + own + behind), *ends) for own in slot.choices),
        )
        for form in forms
    ]
    shares = by_encoder(canvases, rows)
    best = [int(np.argmax(own)) for own in shares]
    return [slot.choices[own] for own in best], [float(own[at]) for own, at in zip(shares, best, strict=True)]


def _infilled(canvases: Canvases, forms: Sequence[Form], slot: Slot, behind: str, is_last: bool) -> list[str]:
    """What canvases with both sides in view have in a slot for text; "" where that is no line of text."""
    gaps = [TextGap(form.written, behind, form.prompt, is_last) for form in forms]
    length = Length.of(canvases, min(slot.max_tokens, canvases.longest // 2), None)
    texts = [""] * len(forms)
    for event in filled_together(canvases, gaps, length, []):
        texts[event.row] += event.text
    return ["" if set(text) & set("\n\r") or not text.strip() else text for text in texts]


def _written(canvases: Canvases, forms: Sequence[Form], slot: Slot, behind: str) -> list[str]:
    """What the encoder writes in a slot of every form, under the constraint of the slot and of what is behind it."""
    rows = [Seams.opened(canvases.tokenizer, form.written, "") for form in forms]
    prompts = [[*form.prompt, *row.before] for form, row in zip(forms, rows, strict=True)]
    goal = behind[:BEHIND].rstrip(" ") or behind[:BEHIND]
    if not _holds(canvases, f"({slot.pattern}){_literal(goal)}", slot.max_tokens + len(goal)):
        goal = ""  # the two together are too much
    beside = max(len(canvases.tokenizer.encode_text(row.begins + goal)) for row in rows)
    settings = canvases.model.generation_defaults.resolve(_causal(canvases, slot.max_tokens + beside + 1))
    requests = []
    for prompt, row in zip(prompts, rows, strict=True):
        constraint = read_constraint({"regex": f"{_literal(row.begins)}({slot.pattern}){_literal(goal)}"})
        guide = guide_of(constraint, canvases.model, canvases.tokenizer, settings, prompt)
        requests.append(Request(tuple(prompt), settings, canvases.draws, prefixes=canvases.prefixes, guide=guide))
    texts = [""] * len(requests)
    for event in run(canvases.model, canvases.tokenizer, requests):
        texts[event.row] += event.text
    return [text[len(row.begins) : len(text) - len(goal)] for text, row in zip(texts, rows, strict=True)]


def _causal(canvases: Canvases, max_tokens: int) -> GenerationConfig:
    size, seed = canvases.settings.prefill_step_size, canvases.settings.seed
    return GenerationConfig(mode="autoregressive", max_tokens=max_tokens, seed=seed, prefill_step_size=size)


def _check_pattern(canvases: Canvases, slot: Slot) -> None:
    """Raise `OptionError` for a pattern that nothing matches, or that is none."""
    try:
        _guide(canvases, slot.pattern, slot.max_tokens)
    except OptionError as error:
        raise OptionError(f"slot {slot.name!r}: {error}") from None


def _holds(canvases: Canvases, pattern: str, max_tokens: int) -> bool:
    """Whether an ending of every text under a pattern can be found within so many tokens."""
    try:
        _guide(canvases, pattern, max_tokens)
    except OptionError:
        return False
    return True


def _guide(canvases: Canvases, pattern: str, max_tokens: int) -> None:
    settings = canvases.model.generation_defaults.resolve(_causal(canvases, max_tokens))
    guide_of(read_constraint({"regex": pattern}), canvases.model, canvases.tokenizer, settings, ())


def _literal(text: str) -> str:
    """A regular expression that matches this text alone, in any dialect."""
    return re.sub(r"[\\.+*?()|\[\]{}^$]", r"\\\g<0>", text)


def _likelihoods(canvases: Canvases, forms: Sequence[Form], texts: Sequence[str]) -> list[float]:
    """The encoder's probability of what stands in a slot, behind the prompt and all that is written before."""
    place, found = Place((), (-1,) * min(16, canvases.longest), 0, 0), [1.0] * len(forms)
    judged, tokens, firsts = [row for row, text in enumerate(texts) if text], [], []  # an empty text asks nothing
    for row in judged:
        before, whole = (
            canvases.tokenizer.encode_text(own) for own in (forms[row].written, forms[row].written + texts[row])
        )
        shared = next((n for n, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        tokens.append(whole)
        firsts.append(min(shared, len(whole) - 1))
    if judged:
        trial = Trial(canvases.model, [canvases.request(forms[row].prompt, place) for row in judged])
        for row, said, first in zip(judged, trial.likelihoods(tokens), firsts, strict=True):
            found[row] = float(np.exp(said[first:].sum()))
    return found
