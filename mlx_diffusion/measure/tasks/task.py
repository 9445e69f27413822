"""A task: a prompt, one right answer, and a check that knows every right answer.

Knows nothing of models and tokens: messages and text only. The split into training and held-out tasks is a property of
the task itself (a hash of what must never be seen in training), so that no training run can leak into a measurement.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Literal

Split = Literal["train", "held_out"]

HELD_OUT_SHARE = 8  # one key in eight


@dataclass(frozen=True)
class Task:
    """One prompt with its checkable answer.

    `key` decides the split: it is the list, number, name or square that training must not have seen, or None for a task
    that always belongs to training. `answer` is one right answer, `check` accepts every right one (text without markers
    and stop tokens, surrounding space ignored). `thought` is what the model thinks first where the family asks for it;
    `tools` are declarations for the template.
    """

    family: str
    messages: tuple[dict[str, str], ...]
    answer: str
    key: str | None
    check: Callable[[str], bool]
    thought: str | None = None
    tools: tuple[dict[str, Any], ...] = ()

    def is_right(self, text: str) -> bool:
        """Whether `text` is a right answer."""
        return self.check(text.strip())


def ask(
    family: str,
    prompt: str,
    answer: str,
    key: str | None,
    check: Callable[[str], bool] | None = None,
    thought: str | None = None,
) -> Task:
    """A task of one user turn; without `check` the only right answer is `answer` itself."""
    return Task(
        family=family,
        messages=({"role": "user", "content": prompt},),
        answer=answer,
        key=key,
        check=check or (lambda text: text == answer),
        thought=thought,
    )


def split_of(family: str, key: str | None) -> Split:
    """The split of a task, which depends only on its family and key and so is the same everywhere."""
    if key is None:
        return "train"
    digest = blake2b(f"{family}\0{key}".encode(), digest_size=8).digest()
    return "held_out" if int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0 else "train"


def draw(make: Callable[[Random], Task], rng: Random, split: Split) -> Task:
    """Draw tasks from a family until one belongs to `split` (about 8 draws for a held-out one)."""
    while True:
        task = make(rng)
        if split_of(task.family, task.key) == split:
            return task
