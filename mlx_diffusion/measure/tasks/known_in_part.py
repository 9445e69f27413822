"""Texts that are known in part, asked for as `canvas_prompts` does: gaps in other tasks' answers, and forms of answers.

What stands in a gap follows from the task that the text answers, which is given as its context, or from the text
itself. A record that is asked about may leave something out: then no answer is certain, and how certain one should be
is known.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from mlx_diffusion.canvas_prompts import answer_lines, gaps_prompt, questions_prompt
from mlx_diffusion.measure.tasks import code, facts, lists, squares, stories
from mlx_diffusion.measure.tasks.task import Task, ask

ANSWERS: tuple[Callable[[Random], Task], ...] = (
    lists.copy,
    lists.reverse,
    lists.sort,
    lists.insert_index,
    lists.remove_index,
    lists.replace_index,
    facts.to_words,
    facts.dates,
    facts.to_json,
    facts.from_json,
    code.python,
    lists.shuffle,
    squares.latin,
    squares.sudoku,
    stories.story,
)
"""Families whose answers are long enough to have gaps."""
MOST_GAPS = 3
GAP_CHARACTERS = 30
MOST_QUESTIONS = 3
KNOWN_SHARE = 0.7  # of records whose state tells all that is asked
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Gapped:
    """A text with gaps: the parts between them, what to know of it, and a check of the whole."""

    parts: tuple[str, ...]
    context: str
    task: Task


def gapped(rng: Random) -> Gapped:
    """A right answer of some family with one to three gaps; a function may have its docstring in place of a context."""
    task = rng.choice(ANSWERS)(rng)
    context, text, check = task.messages[-1]["content"], task.answer, task.check
    if task.family == "python" and rng.random() < 0.5:
        signature, body = text.split("\n", 1)
        context, text = "", f'{signature}\n    """{context.split(chr(34) * 3)[1]}"""\n{body}'
        check = text.__eq__
    spans = _spans(text, rng)
    ends = [0, *(place for span in spans for place in span), len(text)]
    parts = tuple(text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True))
    return Gapped(parts, context, ask(task.family, gaps_prompt(parts, context), text, task.key, check))


def gaps(rng: Random) -> Task:
    """The task of a gapped text. It is of the family that the text answers, so that both have one split."""
    return gapped(rng).task


def _spans(text: str, rng: Random) -> list[tuple[int, int]]:
    """Where gaps begin and end: words or parts of them, in order, none touching another."""
    words = [match.span() for match in _WORD.finditer(text)]
    found: list[tuple[int, int]] = []
    for _ in range(rng.randint(1, MOST_GAPS)):
        first = rng.randrange(len(words))
        last = min(len(words) - 1, first + rng.choice((0, 0, 0, 1, 2, 3)))
        start, end = words[first][0], words[last][1]
        if rng.random() < 0.3:
            start, end = start + rng.randrange(end - start), end - rng.randrange(end - start)
        end = min(end, start + GAP_CHARACTERS)
        if start < end and all(end < other[0] or other[1] < start for other in found):
            found.append((start, end))
    return sorted(found) or [words[0]]


@dataclass(frozen=True)
class Asked:
    """Questions about a state, the answers that each may have, and the place of the true one among them."""

    state: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]  # a choice "0: under 30" is answered by what is before the colon
    true: tuple[int, ...]
    key: str


def asked(rng: Random) -> Asked:
    """One to three questions about a record or a list."""
    count = rng.randint(1, MOST_QUESTIONS)
    return _about_a_list(rng, count) if rng.random() < 0.4 else _about_a_record(rng, count)


def questions(rng: Random) -> Task:
    found = asked(rng)
    answers = [choices[place].split(":")[0] for (_, choices), place in zip(found.questions, found.true, strict=True)]
    return ask("questions", questions_prompt(found.state, found.questions), answer_lines(answers), found.key)


def _about_a_record(rng: Random, count: int) -> Asked:
    who, age, city = facts.name(rng), rng.randint(18, 89), rng.choice(facts.CITIES)
    states = [f"{who} is {age} and lives in {city}.", json.dumps({"name": who, "age": age, "city": city})]
    if rng.random() > KNOWN_SHARE:
        states = [f"{who} lives in {city}.", f"{who} is {age}."]
    limit, others = rng.randint(20, 87), rng.sample([other for other in facts.CITIES if other != city], 3)
    other = rng.choice([city, others[0]])
    shown = [city, *others[: rng.randint(1, 3)]]
    cities = rng.sample(shown, len(shown))
    low = rng.randint(25, 45)
    high = low + rng.randint(10, 30)
    legend = (f"0: under {low}", f"1: {low} to {high}", f"2: over {high}")
    pool = [
        (f"Is {who} over {limit}?", ("yes", "no"), 0 if age > limit else 1),
        (f"Does {who} live in {other}?", ("yes", "no"), 0 if other == city else 1),
        (f"Where does {who} live?", tuple(cities), cities.index(city)),
        (f"How old is {who}?", legend, 0 if age < low else 1 if age <= high else 2),
    ]
    return _drawn(rng.choice(states), pool, rng, count, who)


def _about_a_list(rng: Random, count: int) -> Asked:
    items = rng.sample(lists.WORDS, rng.randint(lists.MIN_ITEMS, lists.MAX_ITEMS))
    word = rng.choice([rng.choice(items), rng.choice(lists.WORDS)])
    shown = rng.sample(items, min(len(items), rng.randint(2, 4)))
    first, last = ([*shown] for _ in range(2))
    for choices, right in ((first, items[0]), (last, items[-1])):
        if right not in choices:
            choices[rng.randrange(len(choices))] = right
    pool = [
        (f"Is {word} in the list?", ("yes", "no"), 0 if word in items else 1),
        ("Which is first?", tuple(first), first.index(items[0])),
        ("Which is last?", tuple(last), last.index(items[-1])),
    ]
    line = " ".join(items)
    return _drawn(line, pool, rng, count, line)


def _drawn(state: str, pool: list[tuple[str, tuple[str, ...], int]], rng: Random, count: int, key: str) -> Asked:
    drawn = rng.sample(pool, min(count, len(pool)))
    return Asked(state, tuple((text, choices) for text, choices, _ in drawn), tuple(true for *_, true in drawn), key)


KNOWN_IN_PART: Mapping[str, Callable[[Random], Task]] = {"gaps": gaps, "questions": questions}
