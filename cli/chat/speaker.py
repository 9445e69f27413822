"""The other side of a conversation: a loaded checkpoint that is given messages and answers in events.

The only part of the chat that runs a model. Knows nothing of the terminal.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from mlx_diffusion.channels import Decoding, markers_of
from mlx_diffusion.cli.messages import say
from mlx_diffusion.engine.drafting import DraftMemory
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.errors import OptionError
from mlx_diffusion.events import Event
from mlx_diffusion.fit.draft_width import costs_here
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.opening import open_model
from mlx_diffusion.options import GenerationConfig, Settings
from mlx_diffusion.text_stream import StoppedDecoding, StopText, TextStream
from mlx_diffusion.tokenizer import Tokenizer
from mlx_diffusion.visible_text import visible

PREFIX_BYTES = 4_000_000_000  # for the keys and values of earlier turns, which are then not encoded again

Messages = Sequence[dict[str, str]]


class Speaker(Protocol):
    """A model as the chat needs it; tests have one that plays recorded events."""

    name: str
    has_chat_template: bool
    longest_prompt: int  # tokens
    hidden: tuple[int, ...]  # tokens without a text
    markers: Mapping[int, str]  # tokens that part a turn, see `channels`

    def settings(self, config: GenerationConfig) -> Settings:
        """The settings that a run with this config uses. Raises OptionError."""

    def encode(self, messages: Messages, think: bool) -> list[int]:
        """The prompt's tokens. Raises PromptError."""

    def answer(self, prompt: Sequence[int], config: GenerationConfig) -> Generator[Event, None, None]:
        """The events of one answer; closing the generator ends the work."""

    def decoding(self, settings: Settings) -> Decoding:
        """A new text, of tokens that arrive in parts."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""

    def memory_bytes(self) -> int:
        """Memory in use."""


@dataclass
class CheckpointSpeaker:
    """A checkpoint that speaks."""

    name: str
    model: DiffusionGemma
    tokenizer: Tokenizer
    constraint: Mapping[str, Any] | None = None  # what each answer must be

    def __post_init__(self) -> None:
        config = self.model.config
        self.has_chat_template = self.tokenizer.has_chat_template
        self.longest_prompt = config.max_position_embeddings - config.canvas_length
        self.hidden: tuple[int, ...] = (config.pad_token_id,)
        self.markers: Mapping[int, str] = markers_of(self.tokenizer)
        self.prefixes = PrefixStore(self.model, PREFIX_BYTES)
        self.drafts = DraftMemory(costs_here(self.model))

    def settings(self, config: GenerationConfig) -> Settings:
        return self.model.generation_defaults.resolve(config)

    def encode(self, messages: Messages, think: bool) -> list[int]:
        variables: dict[str, Any] = {"enable_thinking": True} if think else {}
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **variables)

    def answer(self, prompt: Sequence[int], config: GenerationConfig) -> Generator[Event, None, None]:
        prefixes = self._prefixes_for(len(prompt))
        yield from stream_generate(
            self.model,
            self.tokenizer,
            list(prompt),
            config=config,
            prefixes=prefixes,
            drafts=self.drafts,
            constraint=self.constraint,
        )

    def decoding(self, settings: Settings) -> StoppedDecoding:
        hidden = {*self.hidden, *settings.eos_token_id}
        return StoppedDecoding(StopText(TextStream(self.tokenizer, hidden), settings.stop))

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens)

    def memory_bytes(self) -> int:
        return mx.get_active_memory()

    def _prefixes_for(self, tokens: int) -> PrefixStore | None:
        """The store of prefixes; None if this prompt alone would exceed its budget."""
        try:
            self.prefixes.check_room(tokens)
        except OptionError:
            return None
        return self.prefixes


def load_speaker(
    name: str, revision: str | None = None, constraint: Mapping[str, Any] | None = None
) -> CheckpointSpeaker:
    """Load "demo", a folder or a Hub id. Raises CheckpointError."""
    return CheckpointSpeaker(visible(name), *open_model(name, say, revision), constraint)
