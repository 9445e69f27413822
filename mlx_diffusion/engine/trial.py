"""Canvases that are looked at and not written: a few denoising steps of several rows, and what is then said of them.

Rows with one prompt share its encoding. Many rows are looked at in several passes, none of them over more positions
than are encoded at once, so that it is not their number that decides how much memory is needed. Knows nothing of what
is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from mlx_diffusion.engine.denoising_row import begun, turn_of
from mlx_diffusion.engine.pauses import pause
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import Canvas, Rules
from mlx_diffusion.engine.step import step
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.head import Survey
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.processes import computing


class Trial:
    """The first canvas of each request, behind its encoded prompt."""

    def __init__(self, model: DiffusionGemma, requests: Sequence[Request]) -> None:
        self.model, self.requests = model, requests
        self.passes = 0
        self.steps = 0
        self.decoder_positions = self.encoder_positions = self.cached_tokens = 0
        self.judged_positions = 0  # of texts whose likelihood was looked at
        self._encodings: dict[tuple[int, ...], PrefixCache] = {}
        for request in requests:
            if request.tokens not in self._encodings:
                self._encodings[request.tokens] = self._encoded(request)
        self._prefixes = [self._encodings[request.tokens].prefix(model.compiled) for request in requests]
        trained = model.config.canvas_length
        self._canvases = [begun(own, model, 0, own.settings.canvas_length or trained) for own in requests]

    @computing()
    def step(self) -> list[Survey]:
        """Take a denoising step with every canvas; what it says of all positions. Raises `CheckpointError` for NaN."""
        rows = list(zip(self.requests, self._canvases, self._prefixes, strict=True))
        stepped = list[Canvas]()
        for part in self._parts([canvas.tokens.shape[0] for canvas in self._canvases]):
            turns = [
                turn_of(own, canvas, prefix, Rules.of(own.settings), 0, self.steps)
                for own, canvas, prefix in rows[part]
            ]
            stepped += [one.canvas._replace(kept=()) for one in step(self.model, turns)]
            mx.eval([(canvas.tokens, *canvas.survey) for canvas in stepped[part]])
        self._canvases = stepped
        self.steps += 1
        for canvas in self._canvases:
            self.decoder_positions += canvas.tokens.shape[0]
            _check(canvas.survey.entropy)
        return [canvas.survey for canvas in self._canvases]

    def logprobs(self, wanted: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """One look more: log-probabilities at some positions of each canvas, float32 [F, V]. Nothing is changed."""
        rows = list(zip(self.requests, self._canvases, self._prefixes, wanted, strict=True))
        for part in self._parts([canvas.tokens.shape[0] for canvas in self._canvases]):
            with computing():
                views = [
                    turn_of(own, canvas, prefix, Rules.of(own.settings), 0, 0)
                    .view()
                    ._replace(asked=mx.array(list(places), dtype=mx.int32))
                    for own, canvas, prefix, places in rows[part]
                ]
                found = [_logprobs(logits) for logits in self.model.logits_at(views)]
            self.decoder_positions += sum(canvas.tokens.shape[0] for _, canvas, *_ in rows[part])
            yield from found

    @computing()
    def likelihoods(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """What the encoder says of a text behind each prompt: log-probabilities of its tokens, from causal passes."""
        found = list[np.ndarray]()
        for part in self._parts(list(map(len, texts))):
            passages = []
            for request, text in zip(self.requests[part], texts[part], strict=True):
                cache = self._encodings[request.tokens].fork()
                cache.rewind(1)  # the last token of the prompt says what follows
                passages.append(Passage(mx.array([request.tokens[-1], *text[:-1]], dtype=mx.int32), cache))
            hidden, start = self.model.encode(passages), 0
            for text in texts[part]:
                logits = self.model.unembed(hidden[start : start + len(text)])
                chosen = mx.take_along_axis(logits, mx.array(list(text))[:, None], axis=-1).squeeze(-1)
                found.append(np.array(chosen - mx.logsumexp(logits, axis=-1)))
                start += len(text)
                _check(found[-1])
        self.judged_positions += sum(map(len, texts))
        return found

    def _parts(self, sizes: Sequence[int]) -> Iterator[slice]:
        """The rows of each pass, by the positions that each row has in it."""
        most, start, held = self.requests[0].settings.prefill_step_size, 0, 0
        for row, size in enumerate(sizes):
            if row > start and held + size > most:
                yield self._part(start, row)
                start, held = row, 0
            held += size
        yield self._part(start, len(sizes))

    def _part(self, start: int, end: int) -> slice:
        pause()
        self.passes += 1
        return slice(start, end)

    @computing()
    def _encoded(self, request: Request) -> PrefixCache:
        """The encoding of a request's prompt, in parts of its size, and of a store where it has one."""
        store, tokens, size = request.prefixes, list(request.tokens), request.settings.prefill_step_size
        cache = self.model.make_cache() if store is None else store.find(tokens)
        self.cached_tokens += cache.offset
        self.encoder_positions += len(tokens) - cache.offset
        while cache.offset < len(tokens):
            pause()
            part = tokens[cache.offset : cache.offset + size]
            self.model.encode([Passage(mx.array(part, dtype=mx.int32), cache, 0)])
            mx.eval(cache.arrays())
        if store is not None:
            store.keep(tokens, cache)
        return cache


def _logprobs(logits: mx.array) -> np.ndarray:
    found = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    _check(found)
    return found


def _check(figures: mx.array | np.ndarray) -> None:
    if np.isnan(np.array(figures)).any():
        raise CheckpointError(
            "the model gives NaN: its weights are damaged or were converted wrongly; download or convert it again"
        )
