"""Stories from a small grammar: answers that run over several canvases and must stay true to their beginning.

The prompt gives the name and the animal; city, colour, lost thing, places and moods are free. But the thing that is
found must be the thing that was lost, no place is searched twice, and the name and the animal never change.
"""

import re
from random import Random

from mlx_diffusion.measure.tasks.facts import CITIES, name
from mlx_diffusion.measure.tasks.task import Task, ask

_ANIMALS = tuple("ant bee cat cow dog elk fox hen owl pig rat yak".split())
_COLOURS = tuple("red blue grey brown white black".split())
_THINGS = tuple("bag cup fan hat jar key map net pan pen pin urn".split())
_PLACES = tuple("garden kitchen barn cellar attic garage river forest".split())
_MOODS = tuple("happy proud calm tired".split())
_SEARCH = "They looked in the {place}, but the {thing} was not there."

_STORY = re.compile(
    r"(?P<who>\w+) lived in (?P<city>\w+) with a (?P<colour>\w+) (?P<animal>\w+)\. "
    r"One day the (?P=animal) lost a (?P<thing>\w+)\. "
    r"(?P<searches>(?:They looked in the \w+, but the (?P=thing) was not there\. ){2,5})"
    r"At last (?P=who) found the (?P=thing) in the (?P<place>\w+)\. "
    r"The (?P=animal) was (?P<mood>\w+), and so was (?P=who)\."
)


def _is_story(text: str, who: str, animal: str) -> bool:
    told = _STORY.fullmatch(text)
    if told is None or told["who"] != who or told["animal"] != animal:
        return False
    places = [*re.findall(r"in the (\w+), but", told["searches"]), told["place"]]
    known = (
        told["city"] in CITIES and told["colour"] in _COLOURS and told["mood"] in _MOODS and told["thing"] in _THINGS
    )
    return known and set(places) <= set(_PLACES) and len(set(places)) == len(places)


def story(rng: Random) -> Task:
    who, animal, thing = name(rng), rng.choice(_ANIMALS), rng.choice(_THINGS)
    *searched, found = rng.sample(_PLACES, rng.randint(3, 6))
    sentences = [
        f"{who} lived in {rng.choice(CITIES)} with a {rng.choice(_COLOURS)} {animal}.",
        f"One day the {animal} lost a {thing}.",
        *(_SEARCH.format(place=place, thing=thing) for place in searched),
        f"At last {who} found the {thing} in the {found}.",
        f"The {animal} was {rng.choice(_MOODS)}, and so was {who}.",
    ]
    prompt = f"Story: {who} and the {animal}"
    return ask("story", prompt, " ".join(sentences), f"{who} {animal}", lambda text: _is_story(text, who, animal))
