"""Counts what is gained if a pass that verifies a draft carries the next one: python tests/shared_passes.py [COUNT].

The next draft would stand behind the one that is being verified, and be worth something only where all of that is
right. The bundled checkpoint answers COUNT prompts of each family (3); at every place of an answer, drafts of all
widths are made. Then whole answers are priced on three chips, with such passes and without, each with the one choice of
widths for a family that is best in hindsight: no policy gains more. It takes some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import product, starmap
from math import prod
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.engine.drafting import Cost, Drafting, DraftMemory, FoundText, Plan
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import DRAFTS, Rules
from mlx_diffusion.engine.step import Turn, first_canvas, step
from mlx_diffusion.events import Segment
from mlx_diffusion.fit.chips import SHOWN
from mlx_diffusion.fit.draft_width import relative_costs
from mlx_diffusion.fit.prediction import published_shape
from mlx_diffusion.loading import load
from mlx_diffusion.measure.answers.suites import draw_items, families_of
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.options import GenerationConfig

COSTS = {chip.label: relative_costs(published_shape(), chip) for chip in SHOWN}
WIDTHS = (4, 6, 8, 12, 16, 24, 32)
MODEL, TOKENIZER = load(DEMO_FOLDER)
SETTINGS = MODEL.generation_defaults.resolve(GenerationConfig(mode="autoregressive", max_tokens=128))
DRAWS = SeededDraws.of(0, MODEL.config.vocab_size)


class Guess(NamedTuple):
    """Tokens of a draft before the stop token that it foresees."""

    tokens: list[int]
    likely: list[float]  # the probability that the draft gives each
    ends: bool  # it foresees one


class Text(NamedTuple):
    """An answer, and what would be drafted at each of its places: by place, whether a token is known, and width."""

    prompt: Sequence[int]
    tokens: list[int]
    drafts: dict[tuple[int, bool, int], Guess]


class Choice(NamedTuple):
    """How all answers of a family are drafted; a width of 0 is no draft."""

    beside: int  # the prompt's pass
    denoised: int  # in a pass of its own
    is_found: bool  # words that stood in the text before are a draft as well
    shared: int = 0  # in a verifying pass
    least: float = 0.0  # probability of the draft that it verifies


def texts_of(family: str, count: int) -> list[Text]:
    """Greedy answers of a family, with all their drafts."""
    prompts = [item.tokens(TOKENIZER) for item in draw_items(family, count, 0)]
    texts = [Text(prompt, [], {}) for prompt in prompts]
    for event in run(MODEL, TOKENIZER, [Request(tuple(prompt), SETTINGS, DRAWS) for prompt in prompts]):
        if isinstance(event, Segment):
            texts[event.row].tokens.extend(event.tokens)
    for text in texts:
        cache = MODEL.make_cache(max(WIDTHS))
        MODEL.encode([Passage(mx.array(list(text.prompt), dtype=mx.int32), cache, 0)])
        for place, token in enumerate(text.tokens):
            kinds = list(product((False, True), WIDTHS))
            turns = [turn(cache, width, [token] if known else []) for known, width in kinds]
            for (known, width), one in zip(kinds, step(MODEL, turns), strict=True):
                columns = (one.canvas.tokens, one.canvas.survey.probability)
                tokens, likely = (np.array(column)[int(known) :].tolist() for column in columns)
                text.drafts[place, known, width] = before_stop(tokens, likely)
            MODEL.encode([Passage(mx.array([token], dtype=mx.int32), cache, 0)])
    return texts


def turn(cache: PrefixCache, width: int, known: list[int]) -> Turn:
    """A draft's step behind what the cache holds."""
    pinned = mx.array(known + [-1] * (width - len(known)), dtype=mx.int32) if known else None
    canvas = first_canvas(DRAWS.initial(0, width), MODEL.no_signal(width), pinned)
    temperature = mx.array([SETTINGS.t_max])
    return Turn(canvas, cache.prefix(), temperature, mx.zeros((0,)), canvas.tokens, Rules.of(SETTINGS), DRAFTS[False])


def before_stop(tokens: list[int], likely: list[float]) -> Guess:
    """The beginning of a draft that may be verified."""
    end = next((index for index, token in enumerate(tokens) if token in SETTINGS.eos_token_id), len(tokens))
    return Guess(tokens[:end], likely[:end], end < len(tokens))


def verified(guess: Guess, cost: Cost) -> Guess:
    """What of a draft is worth verifying, as the library has it."""
    most = len(guess.tokens)
    count = Drafting(None, 1, 64, DraftMemory(cost)).verified(Plan("denoised", 1 + most, 0, most), guess.likely)
    return Guess(guess.tokens[:count], guess.likely[:count], guess.ends and count == most)


def passes_of(text: Text, choice: Choice, cost: Cost) -> float:
    """The time of an answer behind its prompt, in passes of one position."""
    found, part, end, place, passes = FoundText(), len(text.prompt), len(text.tokens) - 1, 0, 0.0
    found.extend([*text.prompt, text.tokens[0]])
    guess = text.drafts[0, False, choice.beside] if choice.beside else None
    if guess is not None:
        passes += cost(part + choice.beside, part - 1) - cost(part, part - 1)
    while place < end:
        if guess is not None and guess.tokens[:1] == [text.tokens[place]]:
            guess = verified(Guess(guess.tokens[1:], guess.likely[1:], guess.ends), cost)
        elif choice.is_found and (words := found.guess(3, 31)):
            guess = before_stop(words, [0.9] * len(words))
        elif choice.denoised:
            passes += cost(choice.denoised)
            guess = verified(text.drafts[place, True, choice.denoised], cost)
        else:
            guess = Guess([], [], False)
        is_shared = choice.shared and not guess.ends and prod(guess.likely) >= choice.least
        passes += cost(1 + len(guess.tokens) + (choice.shared if is_shared else 0))
        right = agreeing(guess.tokens, text.tokens[place + 1 :])
        found.extend(text.tokens[place + 1 : place + 2 + right])
        place += 1 + right
        is_drafted = is_shared and right == len(guess.tokens) and place < end
        guess = text.drafts[place, False, choice.shared] if is_drafted else None
    return passes


def agreeing(guesses: list[int], tokens: list[int]) -> int:
    """How many guesses are right, each behind right ones."""
    pairs = enumerate(zip(guesses, tokens, strict=False))
    return next((index for index, (guess, token) in pairs if guess != token), min(len(guesses), len(tokens)))


def best(texts: Sequence[Text], choices: Iterable[Choice], cost: Cost) -> tuple[float, Choice]:
    """The least time of all texts with one choice."""
    return min((sum(passes_of(text, choice, cost) for text in texts), choice) for choice in choices)


def counted(texts: Sequence[Text], cost: Cost) -> list[float]:
    """The time of all texts: one token a pass, with the best drafts, and with the best of which some share a pass."""
    alone, choice = best(texts, starmap(Choice, product((0, *WIDTHS), (0, *WIDTHS), (False, True))), cost)
    denoised, found = {0, choice.denoised}, (choice.is_found,)
    sharing = starmap(Choice, product((0, *WIDTHS), denoised, found, WIDTHS, (0.0, 0.5, 0.8, 0.95)))
    return [sum(len(text.tokens) - 1.0 for text in texts), alone, min(alone, best(texts, sharing, cost)[0])]


def main(count: int) -> None:
    """Print how many times as fast as plain writing a family is, without such passes and with them, chip by chip."""
    totals = {chip: np.zeros(3) for chip in COSTS}
    for family in families_of(["all"]):
        texts = texts_of(family, count)
        for chip, cost in COSTS.items():
            times = np.array(counted(texts, cost)) / len(texts)
            totals[chip] += times
            print(f"{family:16}{chip:16}{times[0] / times[1]:6.2f}{times[0] / times[2]:6.2f}", flush=True)
    for chip, times in totals.items():
        print(f"{'all':16}{chip:16}{times[0] / times[1]:7.3f}{times[0] / times[2]:7.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
