"""Lists of words: copy, reverse, sort, shuffle, and insert, remove and replace by index and at random.

The task set of ParallelBench (arXiv 2510.04767). In a shuffle or a random edit the positions of the answer depend on
each other, which is what parallel decoding gets wrong; the others have one right token at every position.
"""

from collections import Counter
from random import Random

from mlx_diffusion.measure.tasks.task import Task, ask

WORDS = tuple(
    "ant bee cat cow dog elk fox hen owl pig rat yak ash fig oak nut pea rye tea jam "
    "bag box cup fan hat ink jar key lid map net pan pen pin rug saw tin urn van wig".split()
)
MIN_ITEMS, MAX_ITEMS = 3, 6


def _items(rng: Random, extra: int = 0) -> tuple[list[str], list[str]]:
    """A list of distinct words and `extra` words that are not in it."""
    count = rng.randint(MIN_ITEMS, MAX_ITEMS)
    words = rng.sample(WORDS, count + extra)
    return words[:count], words[count:]


def copy(rng: Random) -> Task:
    items, _ = _items(rng)
    line = " ".join(items)
    return ask("copy", f"Copy: {line}", line, line)


def reverse(rng: Random) -> Task:
    items, _ = _items(rng)
    line = " ".join(items)
    return ask("reverse", f"Reverse: {line}", " ".join(reversed(items)), line)


def sort(rng: Random) -> Task:
    items, _ = _items(rng)
    return ask("sort", f"Sort: {' '.join(items)}", " ".join(sorted(items)), " ".join(sorted(items)))


def shuffle(rng: Random) -> Task:
    """Any order is right, also the given one. The split goes by the set of words: training saw no order of it."""
    items, _ = _items(rng)
    answer = rng.sample(items, len(items))
    return ask(
        "shuffle",
        f"Shuffle: {' '.join(items)}",
        " ".join(answer),
        " ".join(sorted(items)),
        lambda text: Counter(text.split()) == Counter(items),
    )


def insert_index(rng: Random) -> Task:
    items, (word,) = _items(rng, 1)
    place = rng.randint(1, len(items) + 1)
    answer = [*items[: place - 1], word, *items[place - 1 :]]
    prompt = f"Insert {word} at {place}: {' '.join(items)}"
    return ask("insert_index", prompt, " ".join(answer), " ".join(items))


def insert_random(rng: Random) -> Task:
    items, (word,) = _items(rng, 1)
    place = rng.randint(0, len(items))
    answer = [*items[:place], word, *items[place:]]
    right = {" ".join([*items[:i], word, *items[i:]]) for i in range(len(items) + 1)}
    prompt = f"Insert {word} anywhere: {' '.join(items)}"
    return ask("insert_random", prompt, " ".join(answer), " ".join(items), lambda text: text in right)


def remove_index(rng: Random) -> Task:
    items, _ = _items(rng)
    place = rng.randint(1, len(items))
    answer = [*items[: place - 1], *items[place:]]
    return ask("remove_index", f"Remove item {place}: {' '.join(items)}", " ".join(answer), " ".join(items))


def remove_random(rng: Random) -> Task:
    items, _ = _items(rng)
    place = rng.randrange(len(items))
    answer = [*items[:place], *items[place + 1 :]]
    right = {" ".join([*items[:i], *items[i + 1 :]]) for i in range(len(items))}
    prompt = f"Remove any item: {' '.join(items)}"
    return ask("remove_random", prompt, " ".join(answer), " ".join(items), lambda text: text in right)


def replace_index(rng: Random) -> Task:
    items, (word,) = _items(rng, 1)
    place = rng.randint(1, len(items))
    answer = [*items[: place - 1], word, *items[place:]]
    prompt = f"Replace item {place} with {word}: {' '.join(items)}"
    return ask("replace_index", prompt, " ".join(answer), " ".join(items))


def replace_random(rng: Random) -> Task:
    items, (word,) = _items(rng, 1)
    place = rng.randrange(len(items))
    answer = [*items[:place], word, *items[place + 1 :]]
    right = {" ".join([*items[:i], word, *items[i + 1 :]]) for i in range(len(items))}
    prompt = f"Replace any item with {word}: {' '.join(items)}"
    return ask("replace_random", prompt, " ".join(answer), " ".join(items), lambda text: text in right)
