"""One caller's request to the engine, complete and checked.

Knows nothing of how it is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlx_diffusion.display import count_of
from mlx_diffusion.engine.drafting import DraftMemory
from mlx_diffusion.engine.noise import Draws
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.engine.rules import REFERENCE, Policy
from mlx_diffusion.errors import OptionError, PromptError
from mlx_diffusion.modes import CAUSAL, DENOISING
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.option_checks import plain_number
from mlx_diffusion.options import Settings
from mlx_diffusion.structure.guide import Guide


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, and everything that decides what follows it."""

    tokens: tuple[int, ...]
    settings: Settings
    draws: Draws
    policy: Policy = REFERENCE  # of the denoising modes
    prefixes: PrefixStore | None = None  # what it has kept is not encoded again
    drafts: DraftMemory | None = None  # of mode "speculative"; None: one of its own
    pinned: tuple[int, ...] = ()  # the tokens that are known of what follows, in a denoising mode; -1 where one is free
    guide: Guide | None = None  # at the beginning of what the text must be; None: anything

    def __post_init__(self) -> None:
        if self.guide is not None and self.pinned_through:
            raise OptionError("pinned tokens do not go with a constraint; drop one of them")

    @cached_property
    def pinned_through(self) -> int:
        """How far what is known reaches: the place behind the last pinned token, 0 where there is none."""
        return max((place for place, token in enumerate(self.pinned, start=1) if token >= 0), default=0)

    def pins(self, block: int, length: int) -> np.ndarray | None:
        """What is known of a block's canvas, int32 [L]; None: nothing."""
        known = np.full(length, -1, np.int32)
        own = self.pinned[block * length : (block + 1) * length]
        known[: len(own)] = own
        return known if (known >= 0).any() else None


def check_request(
    model: DiffusionGemma, settings: Settings, lengths: Sequence[int], prefixes: PrefixStore | None
) -> None:
    """Raise what requests with prompts of these lengths would fail of: `OptionError` or `PromptError`."""
    trained, context = model.config.canvas_length, model.config.max_position_embeddings
    for name in ("canvas_length", "first_canvas", "draft_width"):
        if (getattr(settings, name) or 0) > trained:
            raise OptionError(f"{name} is {getattr(settings, name)}; this checkpoint has canvases of at most {trained}")
    _check_vocabulary(settings, model.config.vocab_size)
    room = 1 if settings.mode in CAUSAL else settings.canvas_length or trained
    for length in lengths:
        if length > context - room:
            behind = "a token behind it" if settings.mode in CAUSAL else f"a canvas of {room}"
            raise PromptError(
                f"the prompt has {count_of(length, 'token')}; with {behind} in a context of {context:,} it may have "
                f"{context - room:,}; shorten it"
            )
    if prefixes is not None:
        if prefixes.model is not model:
            raise OptionError("the prefix store belongs to another model; make one of this model")
        for length in lengths:
            prefixes.check_room(length)


def check_pins(pinned: Sequence[int], settings: Settings, vocab_size: int) -> tuple[int, ...]:
    """Tokens to be pinned, as a request takes them. Raises `OptionError`."""
    found = tuple(map(plain_number, pinned))
    for place, token in enumerate(found):
        if isinstance(token, bool) or not isinstance(token, int) or not -1 <= token < vocab_size:
            raise OptionError(
                f"pinned has {token!r} at place {place}; the vocabulary has ids 0 to {vocab_size - 1}, and -1 leaves a "
                "place free"
            )
    if found and settings.mode not in DENOISING:
        raise OptionError(f"mode {settings.mode!r} holds no token in place; modes that do: {', '.join(DENOISING)}")
    return found


def _check_vocabulary(settings: Settings, vocab_size: int) -> None:
    for name, ids in (("eos_token_id", settings.eos_token_id), ("logit_bias", [id for id, _ in settings.logit_bias])):
        for token in ids:
            if token >= vocab_size:
                raise OptionError(f"{name} is {token}; the vocabulary has ids 0 to {vocab_size - 1}")
    if (settings.logprobs or 0) > vocab_size:
        raise OptionError(f"logprobs is {settings.logprobs}; the vocabulary has {count_of(vocab_size, 'token')}")
