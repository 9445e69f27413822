"""One model that is asked by requests of any interface: what each of them is to be answered.

Knows nothing of HTTP, and of the interfaces only the requests of OpenAI's form, which others are read as.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from mlx_diffusion.engine.guides import guides_of
from mlx_diffusion.modes import CAUSAL, Mode
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.serving.engine_thread import EngineThread
from mlx_diffusion.serving.jobs import Wish
from mlx_diffusion.serving.openai_requests import ChatRequest, CompletionRequest, TextOptions
from mlx_diffusion.serving.problems import RequestError, bad
from mlx_diffusion.serving.turns import Turns, make_ready_for_calls

Wanted = list[Wish]  # one a choice
ReadyT = TypeVar("ReadyT")


@dataclass
class Service:
    """A model with its name, and the options of requests that do not give them."""

    engine: EngineThread
    name: str
    defaults: GenerationConfig
    _preparing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.since = datetime.now(UTC)
        self.turns = Turns(self.engine.model, self.engine.tokenizer)

    @property
    def stream_seconds(self) -> int:
        """The longest time that a stream is open."""
        return self.engine.limits.answer_seconds + self.engine.limits.grace_seconds

    @property
    def context(self) -> int:
        """How many positions prompt and answer may have together."""
        return self.engine.model.config.max_position_embeddings

    def canvas_mode(self, asked: Mode | None) -> Mode | None:
        """The mode of work that only a canvas can do: what is asked for, or the server's where it has canvases."""
        return asked or (None if self.defaults.mode in CAUSAL else self.defaults.mode)

    async def prepare(self, make: Callable[[bytes], ReadyT], raw: bytes) -> ReadyT:
        """What `make` makes of a body: in another thread, since it may take long, and one body after another."""
        async with self._preparing:
            return await run_in_threadpool(make, raw)

    def check_name(self, name: str | None) -> None:
        """Raises RequestError for a model that is not served."""
        if name not in (None, self.name):
            raise RequestError(404, f"the model {(name or '')[:80]!r} is not served; this server has {self.name!r}",
                               code="model_not_found", param="model")  # fmt: skip

    def wanted(self, body: ChatRequest | CompletionRequest) -> Wanted:
        """What is to be answered. Raises OptionError, PromptError and RequestError."""
        self.check_name(body.model)
        settings = self.settings(body)
        if isinstance(body, CompletionRequest):
            count, most = len(body.prompts) * len(settings), self.engine.limits.max_choices
            if count > most:
                raise bad(f"prompts times n is {count}; this server gives at most {most}", "n")
            encoded = [self._encode(prompt) for prompt in body.prompts]
            return [wish for tokens in encoded for wish in self._wishes(tokens, settings, body.wanted_form)]
        if not body.messages:
            raise bad("messages is empty; write one for the model to answer", "messages")
        if body.offered_tools:
            make_ready_for_calls()
        tokens = self._encode(body.conversation, body.offered_tools, body.thinks)
        return self._wishes(tokens, settings, body.wanted_form)

    def _wishes(
        self, tokens: list[int], settings: Sequence[Settings], constraint: Mapping[str, Any] | None
    ) -> list[Wish]:
        """One for each of the settings. Raises OptionError for a constraint that no text can fulfil."""
        model, tokenizer = self.engine.model, self.engine.tokenizer
        (guide,) = guides_of(constraint, model, tokenizer, settings[0], [tokens])
        return [Wish(tokens, one, guide and guide.copied()) for one in settings]

    def echoes(self, body: CompletionRequest, choices: int) -> list[str]:
        """The prompt of each choice as text."""
        decode = self.engine.tokenizer.decode
        texts = [prompt if isinstance(prompt, str) else decode(prompt) for prompt in body.prompts]
        return [text for text in texts for _ in range(choices // len(texts))]

    def _encode(self, prompt: Any, *template: Any) -> list[int]:
        """A prompt's token ids; `template` is tools and thinking, for messages."""
        return self.engine.tokenizer.encode_prompt(prompt, self.engine.model.config.vocab_size, *template)

    def settings(self, body: TextOptions) -> list[Settings]:
        """The settings of each choice: the first has the seed, each further one the next."""
        count, limits = body.n or 1, self.engine.limits
        if count > limits.max_choices:
            raise bad(f"n is {count}; this server gives at most {limits.max_choices}", "n")
        first = self.engine.model.generation_defaults.resolve(body.config(self.defaults, limits))
        return [replace(first, seed=first.seed + index) for index in range(count)]
