"""One caller's wishes for canvases that are known in part, and the requests that they make of the engine.

Knows nothing of what is known or of how it is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlx_diffusion.display import count_of
from mlx_diffusion.engine.noise import Draws, SeededDraws
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import REFERENCE, Policy
from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.filling.places import Place
from mlx_diffusion.modes import DENOISING
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.tokenizer import Tokenizer


@dataclass(frozen=True)
class Canvases:
    """What all canvases of a call share but for the prompt."""

    model: DiffusionGemma
    tokenizer: Tokenizer
    settings: Settings
    draws: Draws
    prefixes: PrefixStore
    stop: int | None  # ends the model's turn, and fills the rest of a canvas
    policy: Policy = REFERENCE

    @classmethod
    def of(
        cls, model: DiffusionGemma, tokenizer: Tokenizer, config: GenerationConfig, prefixes: PrefixStore | None
    ) -> Canvases:
        """Raises `OptionError` for a mode that holds nothing in place, or for options that have no meaning here."""
        settings = model.generation_defaults.resolve(config)
        if settings.mode not in DENOISING:
            raise OptionError(f"mode {settings.mode!r} holds no text in place; modes that do: {', '.join(DENOISING)}")
        if settings.stop:
            raise OptionError("stop ends a text, which is known here; leave it out")
        if (settings.canvas_length or 0) > model.config.canvas_length:
            raise OptionError(
                f"canvas_length is {settings.canvas_length}; this checkpoint has canvases of at most "
                f"{model.config.canvas_length}"
            )
        store = prefixes or PrefixStore(model, 2**62)
        draws = SeededDraws.of(settings.seed, model.config.vocab_size)
        return cls(model, tokenizer, settings, draws, store, _end_of_turn(tokenizer, settings.eos_token_id))

    @property
    def longest(self) -> int:
        """Positions of the longest canvas."""
        return self.settings.canvas_length or self.model.config.canvas_length

    def prompt(self, text: str) -> tuple[int, ...]:
        """What a user says, as tokens behind which the model's turn begins. Raises `PromptError`."""
        if not self.tokenizer.has_chat_template:
            return tuple(self.tokenizer.encode(f"{text}\n\n"))
        return tuple(self.tokenizer.encode_prompt([{"role": "user", "content": text}], self.model.config.vocab_size))

    def request(self, prompt: Sequence[int], place: Place) -> Request:
        """The request for one canvas. Raises `PromptError` where there is no room for it."""
        tokens, length = (*prompt, *place.written), len(place.pinned)
        context = self.model.config.max_position_embeddings
        if len(tokens) + length > context:
            raise PromptError(
                f"the text and its prompt have {count_of(len(tokens), 'token')}; before a canvas of {length}, in a "
                f"context of {context}, they may have {context - length}; shorten the text"
            )
        settings = replace(self.settings, canvas_length=length, max_tokens=length, eos_token_id=())
        return Request(tokens, settings, self.draws, self.policy, self.prefixes, None, place.pinned)


def _end_of_turn(tokenizer: Tokenizer, stops: Sequence[int]) -> int | None:
    """The stop token with which the chat template ends a turn of the model."""
    if not (stops and tokenizer.has_chat_template):
        return stops[0] if stops else None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    return next((token for token in reversed(tokenizer.apply_chat_template(turns)) if token in stops), stops[0])
