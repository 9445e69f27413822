"""From a prompt to events: blocks of denoised canvases chained through the prefix cache.

Streaming is the only path, `generate` folds it. Knows nothing of terminals, files or how the model is built; one batch
of rows is run from start to end, each row with its own stop and its own figures.
"""

import itertools
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Unpack

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.denoise import Denoiser
from mlx_diffusion.engine.memory_limits import memory_limits
from mlx_diffusion.engine.noise import KeyedNoise, Noise
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.engine.sampler import Acceptance, EntropyBound
from mlx_diffusion.engine.stopping import through_stop
from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.events import Draft, Event, Finish, FinishReason, Prefill, Segment, Stats
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig, GenerationOptions, Settings
from mlx_diffusion.tokenizer import Prompt, TextStream, Tokenizer, split_batch


def stream_generate(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    config: GenerationConfig | None = None,
    noise: Noise | None = None,
    acceptance: Acceptance | None = None,
    prefixes: PrefixStore | None = None,
    **options: Unpack[GenerationOptions],
) -> Iterator[Event]:
    """Write the text that follows `prompt`, as a stream of `Prefill`, `Draft`, `Segment` and `Finish` events.

    prompt      text, used as it is; a list of message dicts, which goes through the chat template; token ids; or a
                list of any of these, run as one batch whose events carry the index of their prompt in `row`
    config      a `GenerationConfig`; what it leaves open comes from the checkpoint
    noise       replaces the randomness that `seed` stands for
    acceptance  replaces the rule which proposed tokens a step keeps, the entropy bound: see `engine.sampler`
    prefixes    a `PrefixStore` of this model, for a single prompt: what it has kept is not encoded again
    options     the fields of `GenerationConfig` as keywords, which win over `config`: max_tokens, max_denoising_steps,
                entropy_bound, t_min, t_max, stability_threshold, confidence_threshold, seed, mode, eos_token_id,
                prefill_step_size

    Joining `.text` over a row's events gives its text. Closing the iterator ends the work within one denoising step
    or one part of the prompt.
    Raises `PromptError` and `OptionError` for bad values and TypeError for an unknown option, before any work is done.
    """
    settings = model.generation_defaults.resolve((config or GenerationConfig()).override(options))
    prompts, _ = split_batch(prompt)
    encoded = [tokenizer.encode_prompt(single, model.config.vocab_size) for single in prompts]
    longest = model.config.max_position_embeddings - model.config.canvas_length
    for tokens in encoded:
        if len(tokens) > longest:
            raise PromptError(
                f"the prompt has {len(tokens)} tokens; with a canvas of {model.config.canvas_length} in a context of "
                f"{model.config.max_position_embeddings} it may have {longest}; shorten it"
            )
    if prefixes is not None:
        if prefixes.model is not model:
            raise OptionError("the prefix store belongs to another model; make one of this model")
        if len(encoded) > 1:
            raise OptionError(f"a prefix store serves one prompt at a time, not {len(encoded)}; leave one of both out")
        prefixes.check_room(len(encoded[0]))
    noise = noise or KeyedNoise(settings.seed, model.config.vocab_size)
    acceptance = acceptance or EntropyBound(settings.entropy_bound)
    return _within_limits(_run(Denoiser(model, settings, noise, acceptance), tokenizer, encoded, prefixes))


def generate(
    model: DiffusionGemma,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    config: GenerationConfig | None = None,
    noise: Noise | None = None,
    acceptance: Acceptance | None = None,
    prefixes: PrefixStore | None = None,
    **options: Unpack[GenerationOptions],
) -> str | list[str]:
    """The text that follows `prompt`, or a list of texts for a list of prompts; arguments as in `stream_generate`."""
    prompts, is_batch = split_batch(prompt)
    texts = [""] * len(prompts)
    for event in stream_generate(
        model, tokenizer, prompt, config=config, noise=noise, acceptance=acceptance, prefixes=prefixes, **options
    ):
        texts[event.row] += event.text
    return texts if is_batch else texts[0]


@dataclass
class _Row:
    """One prompt of a batch: what has been written for it, and where it ends."""

    index: int
    prompt_tokens: int
    cached_tokens: int
    canvas_length: int
    context: int
    settings: Settings
    text: TextStream
    generated: int = 0
    blocks: int = 0
    steps: int = 0
    first_text: float | None = None  # a reading of time.perf_counter
    reason: FinishReason | None = None

    def take(self, block: int, canvas: list[int]) -> Segment:
        """Take in a finished canvas: cut it, decide whether the row ends here, give its tokens and text."""
        tokens, stopped = through_stop(canvas[: self.settings.max_tokens - self.generated], self.settings.eos_token_id)
        self.generated += len(tokens)
        self.blocks += 1
        if stopped:
            self.reason = "stop"
        elif self.generated == self.settings.max_tokens:
            self.reason = "length"
        elif self.prompt_tokens + self.generated + self.canvas_length > self.context:
            self.reason = "context"
        text = self.text.push(tokens, last=self.reason is not None)
        if text and self.first_text is None:
            self.first_text = time.perf_counter()
        return Segment(block, tuple(tokens), text, self.index)

    def stats(self, started: float, prefilled: float) -> Stats:
        return Stats(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.generated,
            blocks=self.blocks,
            denoising_steps=self.steps,
            decoder_positions=self.steps * self.canvas_length,
            encoder_positions=self.prompt_tokens - self.cached_tokens + (self.blocks - 1) * self.canvas_length,
            prompt_seconds=prefilled - started,
            generation_seconds=time.perf_counter() - prefilled,
            first_text_seconds=None if self.first_text is None else self.first_text - started,
            peak_memory_bytes=mx.get_peak_memory(),
        )


def _within_limits(events: Iterator[Event]) -> Iterator[Event]:
    with memory_limits():
        yield from events


def _run(
    denoiser: Denoiser, tokenizer: Tokenizer, prompts: list[list[int]], prefixes: PrefixStore | None
) -> Iterator[Event]:
    """Prefill, then block after block until every row has ended."""
    started = time.perf_counter()
    mx.reset_peak_memory()
    model, settings = denoiser.model, denoiser.settings
    config = model.config
    pad, hidden = config.pad_token_id, {config.pad_token_id, *settings.eos_token_id}
    longest = max(map(len, prompts))
    if prefixes is None:
        cache = model.make_cache([longest - len(tokens) for tokens in prompts])
    else:
        cache = prefixes.find(prompts[0])
    rows = [
        _Row(
            index,
            len(tokens),
            cache.offset,
            config.canvas_length,
            config.max_position_embeddings,
            settings,
            TextStream(tokenizer, hidden),
        )
        for index, tokens in enumerate(prompts)
    ]
    padded = [[pad] * (longest - len(tokens)) + tokens for tokens in prompts]
    encoded = padded[0][: cache.offset]  # what the cache holds, for the store
    while cache.offset < longest:
        part = slice(cache.offset, cache.offset + settings.prefill_step_size)
        encoded += padded[0][part]
        _extend_prefix(model, cache, mx.array([tokens[part] for tokens in padded], dtype=mx.int32))
        mx.clear_cache()
        if prefixes is not None:
            prefixes.keep(encoded, cache)
        if cache.offset < longest:
            yield Prefill(cache.offset, longest)
    prefilled = time.perf_counter()

    live = rows
    for block in itertools.count():
        canvas = yield from _denoise_block(denoiser, cache, block, rows)
        mx.clear_cache()
        tokens = np.array(canvas).tolist()
        for row in live:
            yield row.take(block, tokens[row.index])
            if row.reason is not None:
                yield Finish(row.reason, row.stats(started, prefilled), row.index)
        live = [row for row in rows if row.reason is None]
        if not live:
            return
        # Rows that have ended are padded from here on; the others never see them.
        alive = mx.array([row in live for row in rows])[:, None]
        _extend_prefix(model, cache, mx.where(alive, canvas, pad))
        if prefixes is not None:
            encoded += tokens[0]
            prefixes.keep(encoded, cache)


def _denoise_block(
    denoiser: Denoiser, cache: PrefixCache, block: int, rows: list[_Row]
) -> Generator[Draft, None, mx.array]:
    """Drafts of one block for the rows that are still at work on it; returns the finished canvases, int32 [B, L]."""
    done = tuple(row.reason is not None for row in rows)
    for step, record in enumerate(denoiser.canvas(cache, block=block, ended=done)):
        host = [np.array(array) for array in (record.canvas, record.argmax, record.accepted, record.entropy)]
        for row in rows:
            if not done[row.index]:
                row.steps += 1
                canvas, argmax, accepted, entropy = (array[row.index] for array in host)
                yield Draft(block, step, canvas, argmax, accepted, entropy, row.index)
        done = record.done
    return record.argmax


def _extend_prefix(model: DiffusionGemma, cache: PrefixCache, tokens: mx.array) -> None:
    """Encode tokens, int32 [B, P], into the cache; nothing that only the hidden states need is computed."""
    model.encode(tokens, cache)
    mx.eval(cache.arrays())
