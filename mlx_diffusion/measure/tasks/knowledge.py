"""The limits of the bundled checkpoint's knowledge: words, lists and numbers of a prompt that its tasks do not have.

A prompt that keeps within them may be answered wrong all the same. Knows nothing of models.
"""

import re
from functools import cache
from random import Random

from mlx_diffusion.measure.tasks import FAMILIES
from mlx_diffusion.measure.tasks.facts import CITIES, CODAS, MONTHS, ONSETS, in_words
from mlx_diffusion.measure.tasks.lists import MAX_ITEMS, MIN_ITEMS, WORDS

DRAWS = 100  # of each family, in which every word comes up that is no name
MOST_NAMED = 8  # words, in a notice
QUESTIONS = 2  # of a conversation that are mostly answered as well as the first one
TASKS = "Copy:, Reverse:, Sort:, Shuffle:, Add:, In words:, In digits: or Story:"
_WORD = re.compile(r"[^\W\d_]+")
_LIST = re.compile(
    r"(?:Copy|Reverse|Sort|Shuffle|Insert (\S+) (?:at \d+|anywhere)|Remove (?:item \d+|any item)"
    r"|Replace (?:item \d+|any item) with (\S+)):(.*)",
    re.DOTALL,
)
_NUMBERS = ((re.compile(r"Add:"), 100), (re.compile(r"In words:"), 10_000))  # and what they are below


def beyond_demo(prompt: str, earlier: int = 0) -> str | None:
    """What of a prompt behind `earlier` questions the bundled checkpoint cannot know, in one line; None if nothing."""
    prompt = prompt.strip()
    found = _LIST.fullmatch(prompt)
    if found:
        reason = _beyond_lists([word for word in found.groups()[:2] if word], found[3].split())
    else:
        reason = _beyond_numbers(prompt) or _beyond_words(prompt)
    if reason is None and earlier >= QUESTIONS:
        reason = f"it learned single questions, and this is number {earlier + 1} of a conversation; /reset begins anew"
    return reason and f"the toy will probably answer this wrong: {reason}"


def _beyond_lists(added: list[str], items: list[str]) -> str | None:
    unknown = [word for word in [*added, *items] if word not in WORDS]
    if unknown:
        return (
            f"it never saw {_named(unknown)}; its lists are words out of these, with spaces between: {' '.join(WORDS)}"
        )
    if not MIN_ITEMS <= len(items) <= MAX_ITEMS:
        return f"its lists have {MIN_ITEMS} to {MAX_ITEMS} words, and this has {len(items)}"
    return None


def _beyond_numbers(prompt: str) -> str | None:
    for head, bound in _NUMBERS:
        if head.match(prompt) and any(len(digits) > len(str(bound - 1)) for digits in re.findall(r"\d+", prompt)):
            return f"its numbers in this task are below {bound:,}"
    return None


def _beyond_words(prompt: str) -> str | None:
    unknown = [word for word in _WORD.findall(prompt) if word not in _vocabulary()]
    if unknown or _head(prompt) not in _heads():
        seen = f"it never saw {_named(unknown)}; " if unknown else "it has no such task; "
        return f"{seen}its tasks begin with words like {TASKS}"
    return None


def _named(words: list[str]) -> str:
    distinct = list(dict.fromkeys(words))
    named = ", ".join(f'"{word[:20]}"' for word in distinct[:MOST_NAMED])
    return named + (" and more" if len(distinct) > MOST_NAMED else "")


@cache
def _prompts() -> tuple[str, ...]:
    """Prompts of every family, always the same."""
    rng = Random(0)
    return tuple(make(rng).messages[-1]["content"] for make in FAMILIES.values() for _ in range(DRAWS))


@cache
def _vocabulary() -> frozenset[str]:
    words = {word for prompt in _prompts() for word in _WORD.findall(prompt)}
    names = {onset + coda for onset in ONSETS for coda in CODAS}
    numbers = {word for number in range(1100) for word in in_words(number).split()}
    return frozenset(words | names | numbers | {*WORDS, *CITIES, *MONTHS})


@cache
def _heads() -> frozenset[str]:
    return frozenset(map(_head, _prompts()))


def _head(prompt: str) -> str:
    """The beginning of a prompt up to its colon; the first word of a question to a tool, which has none."""
    head, colon, _ = prompt.partition(":")
    return head + colon if colon else prompt.split(" ")[0]
