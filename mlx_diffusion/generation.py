"""From a prompt to events or to text: what most callers call.

Streaming is the only path, `generate` folds it. Knows nothing of terminals, files or how a model is built or run.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Unpack, overload

from mlx_diffusion.engine.drafting import DraftMemory, counted
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.guides import Constraints, guides_of
from mlx_diffusion.engine.noise import Draws, Noise, SeededDraws, Tape, TapedDraws
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.engine.request import Request, check_pins, check_request
from mlx_diffusion.engine.rules import REFERENCE, FigureRule, OfFigures, Policy
from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.events import Event
from mlx_diffusion.fit.draft_width import costs_here
from mlx_diffusion.messages import Message
from mlx_diffusion.modes import DENOISING
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.option_keywords import GenerationOptions
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.tokenizer import Prompt, SinglePrompt, Tokenizer, split_batch


def stream_generate(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    tools: Sequence[Message] | None = None,
    enable_thinking: bool | None = None,
    config: GenerationConfig | None = None,
    noise: Noise | None = None,
    acceptance: FigureRule | None = None,
    prefixes: PrefixStore | None = None,
    drafts: DraftMemory | None = None,
    pinned: Sequence[int] = (),
    constraint: Constraints = None,
    **options: Unpack[GenerationOptions],
) -> Iterator[Event]:
    """Write the text that follows `prompt`, as a stream of `Prefill`, `Draft`, `Segment` and `Finish` events.

    prompt      text, used as it is; a list of message dicts, which goes through the chat template; token ids; or a
                list of any of these, run as one batch whose events carry the index of their prompt in `row`
    tools       functions that the model may call, as dicts in the usual JSON form, for prompts of messages
    enable_thinking  whether the model thinks before it answers, for prompts of messages and models that can
    config      a `GenerationConfig`; what it leaves open comes from the checkpoint
    noise       replaces the randomness that `seed` stands for
    acceptance  in denoising modes, replaces the rule which proposed tokens a step keeps, the entropy bound: a pure
                function of entropies in nats and of the tokens' probabilities, float32 [1, L] both, that gives bool
                [1, L]
    prefixes    a `PrefixStore` of this model: what it has kept is not encoded again
    drafts      in mode "speculative", a `DraftMemory` that texts of one kind share: what drafts have paid so far. It
                changes the time that a text takes, and nothing of the text
    pinned      in denoising modes, what is known of the answer, of each prompt alike: token ids, -1 where one is free;
                the model sees them from the first step on, none is changed, and the text does not end before the last
    constraint  what the answer must be, behind a thought: {"json_schema": {…}}, {"json_object": True}, {"regex": "…"},
                {"choice": ["…"]}, {"grammar": "…"} (Lark's notation, or GBNF) or {"tools": […]}, whose calls alone, if
                any, stand in the text, with "choice": "auto", "required" or a tool's name; or a list, one a prompt
    options     the fields of `GenerationConfig` as keywords, which win over `config`: mode, max_tokens, seed,
                eos_token_id, stop, prefill_step_size; of "reference", "balanced" and "fast" max_denoising_steps,
                entropy_bound, t_min, t_max, stability_threshold, confidence_threshold, canvas_length, early_end,
                lock_threshold, refresh_every, crop_threshold, first_canvas; of "autoregressive" and "speculative"
                temperature, top_p, top_k, min_p, repetition_penalty, repetition_context_size, logit_bias, logprobs;
                of "speculative" draft_width, draft_steps

    Joining `.text` over a row's events gives its text. Closing the iterator ends the work within one denoising step
    or one part of the prompt.
    In messages, a control token that the text spells ("<turn|>") is text; in a `str` prompt it is a control token.
    Raises `PromptError` and `OptionError` for bad values and TypeError for an unknown option, before any work is done.
    """
    settings = model.generation_defaults.resolve((config or GenerationConfig()).override(options))
    vocab_size = model.config.vocab_size
    encoded = _encoded(tokenizer, vocab_size, prompt, tools, enable_thinking)
    check_request(model, settings, [len(tokens) for tokens in encoded], prefixes)
    policy, pins = _policy(acceptance, settings), check_pins(pinned, settings, vocab_size)
    guides = guides_of(constraint, model, tokenizer, settings, encoded)
    cost = costs_here(model) if settings.mode == "speculative" else counted
    parts = zip(encoded, _draws(model, settings.seed, noise, len(encoded)), guides, strict=True)
    requests = [
        Request(tuple(tokens), settings, own, policy, prefixes, drafts or DraftMemory(cost), pins, guide)
        for tokens, own, guide in parts
    ]
    return run(model, tokenizer, requests)


@overload
def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    prompt: SinglePrompt,
    *,
    tools: Sequence[Message] | None = None,
    enable_thinking: bool | None = None,
    config: GenerationConfig | None = None,
    noise: Noise | None = None,
    acceptance: FigureRule | None = None,
    prefixes: PrefixStore | None = None,
    drafts: DraftMemory | None = None,
    pinned: Sequence[int] = (),
    constraint: Constraints = None,
    **options: Unpack[GenerationOptions],
) -> str: ...


@overload
def generate(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    prompt: Sequence[SinglePrompt],
    *,
    tools: Sequence[Message] | None = None,
    enable_thinking: bool | None = None,
    config: GenerationConfig | None = None,
    noise: Noise | None = None,
    acceptance: FigureRule | None = None,
    prefixes: PrefixStore | None = None,
    drafts: DraftMemory | None = None,
    pinned: Sequence[int] = (),
    constraint: Constraints = None,
    **options: Unpack[GenerationOptions],
) -> list[str]: ...


def generate(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    tools: Sequence[Message] | None = None,
    enable_thinking: bool | None = None,
    config: GenerationConfig | None = None,
    noise: Noise | None = None,
    acceptance: FigureRule | None = None,
    prefixes: PrefixStore | None = None,
    drafts: DraftMemory | None = None,
    pinned: Sequence[int] = (),
    constraint: Constraints = None,
    **options: Unpack[GenerationOptions],
) -> str | list[str]:
    """The text that follows `prompt`, or a list of texts for a list of prompts; arguments as in `stream_generate`."""
    prompts, is_batch = split_batch(prompt)
    texts = [""] * len(prompts)
    for event in stream_generate(
        model,
        tokenizer,
        prompt,
        tools=tools,
        enable_thinking=enable_thinking,
        config=config,
        noise=noise,
        acceptance=acceptance,
        prefixes=prefixes,
        drafts=drafts,
        pinned=pinned,
        constraint=constraint,
        **options,
    ):
        texts[event.row] += event.text
    return texts if is_batch else texts[0]


def _encoded(
    tokenizer: Tokenizer,
    vocab_size: int,
    prompt: Prompt,
    tools: Sequence[Message] | None,
    enable_thinking: bool | None,
) -> list[list[int]]:
    """The token ids of each prompt. Raises PromptError."""
    _check_tokenizer(tokenizer)
    prompts, _ = split_batch(prompt)
    encoded = [tokenizer.encode_prompt(single, vocab_size, tools, enable_thinking) for single in prompts]
    if tokenizer.has_chat_template and any(isinstance(single, str) for single in prompts):
        _hint_at_messages()
    return encoded


def _policy(acceptance: FigureRule | None, settings: Settings) -> Policy:
    """The rules of a denoising mode. Raises OptionError."""
    if acceptance is None:
        return REFERENCE
    if settings.mode not in DENOISING:
        raise OptionError(f"mode {settings.mode!r} has no rule of acceptance; modes that have: {', '.join(DENOISING)}")
    return replace(REFERENCE, acceptance=OfFigures(acceptance))


def _check_tokenizer(tokenizer: object) -> None:
    if not isinstance(tokenizer, Tokenizer):
        raise PromptError(
            f"the tokenizer is a {type(tokenizer).__name__}; pass the one that load() gave with the model, or wrap a "
            "Transformers tokenizer: mlx_diffusion.tokenizer.Tokenizer(yours)"
        )


@cache
def _hint_at_messages() -> None:
    """Say, once in a process, that text is not put into a conversation."""
    level = 2  # of the caller's own line
    while sys._getframe(level - 1).f_globals["__name__"] == __name__:
        level += 1
    warnings.warn(
        "the prompt is plain text and is used as it is, without this model's chat template, so the answer may be empty;"
        ' for an answer to it, pass messages: [{"role": "user", "content": prompt}]',
        UserWarning,
        stacklevel=level,
    )


def _draws(model: DiffusionGemma, seed: int, noise: Noise | None, rows: int) -> list[Draws]:
    """Each row's randomness: the seed's, which is the same for all of them, or its row of what was handed in."""
    vocab_size = model.config.vocab_size
    if noise is None:
        return [SeededDraws.of(seed, vocab_size)] * rows
    tape = Tape(noise, rows, vocab_size)
    return [TapedDraws(tape, row) for row in range(rows)]
