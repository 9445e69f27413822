"""One prompt of an evaluation, and the check of its answer.

Knows nothing of how prompts come about, of models or of files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mlx_diffusion.measure.tasks import Task
from mlx_diffusion.tokenizer import Tokenizer

THOUGHT_END = "<channel|>"


@dataclass(frozen=True)
class Item:
    """A prompt, the check of its answers, and the family that it belongs to.

    `rule` is what the check is made of, where the prompt does not decide it: in a form that JSON can hold.
    """

    family: str
    messages: tuple[dict[str, Any], ...]
    check: Callable[[str], bool]
    thinking: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    length: int | None = None  # of a list that is to be shuffled
    rule: Any = None
    constraint: Mapping[str, Any] | None = None  # what an answer is held to, as `generate` takes it

    @classmethod
    def of(cls, task: Task, length: int | None = None) -> Item:
        """A task as an item."""
        return cls(task.family, task.messages, task.is_right, task.thought is not None, task.tools, length)

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        """The prompt as token ids, by the checkpoint's chat template. Raises `PromptError`."""
        tools = self.tools or None
        if not self.thinking:
            return tokenizer.apply_chat_template(self.messages, tools=tools, add_generation_prompt=True)
        return tokenizer.apply_chat_template(
            self.messages, tools=tools, add_generation_prompt=True, enable_thinking=True
        )

    def is_right(self, text: str) -> bool:
        """Whether a text is a right answer. Its thoughts, and space around the rest, are ignored."""
        return self.check(text.rpartition(THOUGHT_END)[2].strip())

    def digest(self) -> str:
        """A fingerprint of the prompt and of the rule for its answers, the same on every machine."""
        own = [given for given in (self.rule, self.constraint) if given is not None]
        return digest([self.family, self.messages, self.thinking, self.tools, *own])


def digest(content: Any) -> str:
    """A short fingerprint of anything that JSON can hold."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def digest_of(items: Iterable[Item]) -> str:
    """A fingerprint of prompts and their order."""
    return digest([item.digest() for item in items])
