"""Tasks as training examples: token ids of a prefix, of the one canvas to be denoised, and of the canvases after it.

A response is cut into canvases, the last filled with its stop token; one canvas is drawn, its prefix is the prompt and
the clean canvases before it. The canvases after it are there for the encoder, which learns the whole clean sequence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
from transformers import PreTrainedTokenizerFast

from mlx_diffusion.measure.tasks import FAMILIES, Task, draw
from mlx_diffusion.measure.tasks.known_in_part import KNOWN_IN_PART

TAUGHT = {**FAMILIES, **KNOWN_IN_PART}

WEIGHTS = {
    "addition": 40.0,
    "insert_random": 16.0,
    "latin": 10.0,
    "story": 10.0,
    "think": 8.0,
    "replace_random": 8.0,
    "sudoku": 6.0,
    "sort": 4.0,
    "shuffle": 4.0,
    "to_digits": 2.0,
    "to_json": 2.0,
    "remove_random": 2.0,
    "copy": 0.5,
    "from_json": 0.5,
}
"""How often a family is drawn (1 where it is not named): the hard ones often."""
EARLIER_TURN_SHARE = 0.05
LONG_ANSWERS = ("latin", "sudoku", "story", "to_json", "think", "python", "gaps", "questions")
"""Families whose answers do not fit into a canvas of 16 with its stop token."""


@dataclass(frozen=True)
class Example:
    """One canvas in its context."""

    prefix: tuple[int, ...]
    canvas: tuple[int, ...]
    rest: tuple[int, ...]


class Encoder:
    """Turns tasks into token ids with the checkpoint's own template and tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.end_of_turn, self.tool_response = tokenizer.convert_tokens_to_ids(["<turn|>", "<|tool_response>"])

    def prompt(self, task: Task, earlier: Task | None = None) -> list[int]:
        """The rendered prompt of a task, after an earlier turn where one is given."""
        messages = list(task.messages)
        if earlier is not None:
            messages = [*earlier.messages, {"role": "assistant", "content": earlier.answer}, *messages]
        return self.tokenizer.apply_chat_template(
            messages,
            tools=list(task.tools) or None,
            enable_thinking=task.thought is not None,
            add_generation_prompt=True,
            return_dict=False,
        )

    def response(self, task: Task) -> list[int]:
        """What the model writes: thought, answer and the stop token."""
        thought = f"<|channel>thought\n{task.thought}<channel|>" if task.thought is not None else ""
        stop = self.tool_response if task.tools else self.end_of_turn
        return [*self.tokenizer.encode(thought + task.answer, add_special_tokens=False), stop]

    def example(self, task: Task, canvas_length: int, rng: Random, earlier: Task | None = None) -> Example:
        """One canvas of the task's response, drawn at random."""
        prompt, response = self.prompt(task, earlier), self.response(task)
        blocks = -(-len(response) // canvas_length)
        response += response[-1:] * (blocks * canvas_length - len(response))
        start = rng.randrange(blocks) * canvas_length
        end = start + canvas_length
        return Example((*prompt, *response[:start]), tuple(response[start:end]), tuple(response[end:]))


def stream(
    encoder: Encoder, rng: Random, canvas_length: int, count: int, weights: Mapping[str, float]
) -> list[Example]:
    """`count` examples of the training split, families drawn by weight among those whose answers suit the canvas."""
    families = [family for family in TAUGHT if canvas_length > 16 or family not in LONG_ANSWERS]
    examples = []
    for family in rng.choices(families, [weights.get(family, 1.0) for family in families], k=count):
        task = draw(TAUGHT[family], rng, "train")
        earlier = None
        if rng.random() < EARLIER_TURN_SHARE:
            earlier = draw(FAMILIES[rng.choice(("copy", "sort", "addition", "dates", "to_words"))], rng, "train")
        examples.append(encoder.example(task, canvas_length, rng, earlier))
    return examples


def batch(examples: list[Example], pad: int, multiple: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left-padded prefixes [B, P], canvases [B, L] and right-padded rests [B, R]; P is a multiple of `multiple`."""
    longest = max(len(example.prefix) for example in examples)
    longest += -longest % multiple
    prefix = np.full((len(examples), longest), pad, np.int64)
    rest = np.full((len(examples), max(len(example.rest) for example in examples)), pad, np.int64)
    for row, example in enumerate(examples):
        prefix[row, longest - len(example.prefix) :] = example.prefix
        rest[row, : len(example.rest)] = example.rest
    return prefix, np.array([example.canvas for example in examples], np.int64), rest
