"""A conversation: its messages, system message, settings and model, and its form as JSON.

Knows nothing of terminals, files or how answers are made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_diffusion.errors import DiffusionError, OptionError
from mlx_diffusion.options import NAMES, GenerationConfig
from mlx_diffusion.visible_text import is_unicode, notice

FORMAT = "mlx-diffusion chat 1"
SEEDS = 2**64
ROLES = ("user", "assistant")


class ConversationError(DiffusionError):
    """A saved conversation that cannot be read or written, or something that a conversation does not have."""


@dataclass(frozen=True)
class Message:
    """A message of one side; an answer has the `seed` that it was made with."""

    role: str
    content: str
    seed: int | None = None


@dataclass
class Conversation:
    """Questions and answers in turn. The last question has no answer if it was stopped or cut off."""

    model: str
    system: str | None = None
    think: bool = False
    settings: GenerationConfig = field(default_factory=GenerationConfig)
    messages: list[Message] = field(default_factory=list)

    @property
    def open_question(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "user"

    @property
    def last_seed(self) -> int | None:
        return self.messages[-1].seed if self.messages else None

    def ask(self, text: str) -> None:
        """Add a question, in place of one that has no answer."""
        if self.open_question:
            self.messages.pop()
        self.messages.append(Message("user", text))

    def answer(self, text: str, seed: int) -> None:
        """Set the answer to the last question, whole or as far as it is known."""
        if not self.open_question:
            self.messages.pop()
        self.messages.append(Message("assistant", text, seed))

    def reopen(self) -> None:
        """Take the last answer back, so that its question can be answered again."""
        if not self.messages:
            raise ConversationError("nothing has been asked yet; write a message first")
        if not self.open_question:
            self.messages.pop()

    def undo(self) -> str:
        """Take the last question and its answer back; returns the question."""
        self.reopen()
        return self.messages.pop().content

    def prompt(self) -> list[dict[str, str]]:
        """The messages as a chat template takes them."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *({"role": message.role, "content": message.content} for message in self.messages)]

    def to_json(self) -> str:
        settings = {name: getattr(self.settings, name) for name in NAMES if getattr(self.settings, name) is not None}
        messages = [
            {name: value for name, value in vars(message).items() if value is not None} for message in self.messages
        ]
        content = {
            "format": FORMAT,
            "model": self.model,
            "system": self.system,
            "think": self.think,
            "settings": settings,
            "messages": messages,
        }
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

    def to_markdown(self) -> str:
        """The conversation as a page to read; it cannot be read back."""
        sections = [("System", self.system)] if self.system else []
        sections += [("Question" if message.role == "user" else "Answer", message.content) for message in self.messages]
        title = f"# Conversation with {notice(self.model)}\n"
        return "\n".join([title, *(f"## {name}\n\n{content}\n" for name, content in sections)])

    @classmethod
    def from_json(cls, text: str) -> "Conversation":
        """Read what `to_json` gave. Raises ConversationError, which does not name the file: the caller does."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConversationError(f"not JSON: {error}") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ConversationError(f'no conversation of this program: "format" is not "{FORMAT}"')
        settings = _get(content, "settings", dict)
        unknown = sorted(settings.keys() - set(NAMES))
        if unknown:
            raise ConversationError(f"unknown setting {unknown[0]!r}")
        try:
            config = GenerationConfig(**settings)
        except OptionError as error:
            raise ConversationError(str(error)) from None
        messages = [_message(entry, number) for number, entry in enumerate(_get(content, "messages", list))]
        system = None if content.get("system") is None else _get(content, "system", str)
        return cls(_get(content, "model", str), system, _get(content, "think", bool), config, messages)


def _message(entry: object, number: int) -> Message:
    where = f"message {number + 1}"
    if not isinstance(entry, dict):
        raise ConversationError(f"{where} is no JSON object")
    role = ROLES[number % 2]
    if entry.get("role") != role:
        raise ConversationError(f"{where} has role {entry.get('role')!r}; questions and answers must take turns")
    seed = None if entry.get("seed") is None else _get(entry, "seed", int, where)
    if seed is not None and not 0 <= seed < SEEDS:
        raise ConversationError(f"{where} has seed {seed}; it must be 0 or more and below {SEEDS}")
    return Message(role, _get(entry, "content", str, where), seed)


def _get(content: Mapping[str, Any], name: str, kind: type, where: str = "the file") -> Any:
    value = content.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConversationError(f"{where} has no {name!r} that is of type {kind.__name__}")
    if isinstance(value, str) and not is_unicode(value):
        raise ConversationError(f"{where} has a {name!r} that is not valid Unicode text")
    return value
