"""Short answers with one right form: addition, numbers in words, dates, and records as JSON and back."""

import json
from datetime import date, timedelta
from random import Random

from mlx_diffusion.measure.tasks.task import Task, ask

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
MONTHS = ("January February March April May June July August September October November December").split()
ONSETS = ("Bo", "Du", "Fu", "Ga", "Hu", "Ka", "Mo", "Nu", "Ta", "Vi", "Wa", "Zo")
CODAS = ("bel", "din", "gar", "len", "mon", "nis", "ra", "rik", "sha", "tan", "va", "wen")
CITIES = (
    "Accra",
    "Bern",
    "Cairo",
    "Delhi",
    "Hanoi",
    "Kyiv",
    "Lima",
    "Milan",
    "Oslo",
    "Paris",
    "Quito",
    "Riga",
    "Rome",
    "Seoul",
    "Tokyo",
    "Turin",
)


def name(rng: Random) -> str:
    """A first name of two syllables, one of 144. Training never sees one name in eight."""
    return rng.choice(ONSETS) + rng.choice(CODAS)


def in_words(number: int) -> str:
    """An integer from 0 to 9999 in words, without hyphens or "and": 4217 → four thousand two hundred seventeen."""
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f" {_SMALL[rest]}" if rest else "")
    unit, word = (1000, "thousand") if number >= 1000 else (100, "hundred")
    count, rest = divmod(number, unit)
    return f"{_SMALL[count]} {word}" + (f" {in_words(rest)}" if rest else "")


def _number(rng: Random) -> tuple[int, str | None]:
    """An integer from 0 to 9999 and its split key; each length comes about as often as the others.

    Numbers below twenty belong to training: each is a word of its own, and no other number would teach "zero".
    """
    digits = rng.choice((2, 3, 4))
    number = rng.randrange(10**digits)
    return number, None if number < 20 else str(number)


def _sum(rng: Random) -> tuple[int, int, str]:
    """Two integers, each below ten or below a hundred with equal chance, and the split key: the pair in any order."""
    a, b = (rng.randrange(rng.choice((10, 100))) for _ in range(2))
    return a, b, f"{min(a, b)} + {max(a, b)}"


def addition(rng: Random) -> Task:
    a, b, key = _sum(rng)
    return ask("addition", f"Add: {a} + {b}", str(a + b), key)


def to_words(rng: Random) -> Task:
    number, key = _number(rng)
    return ask("to_words", f"In words: {number}", in_words(number), key)


def to_digits(rng: Random) -> Task:
    number, key = _number(rng)
    return ask("to_digits", f"In digits: {in_words(number)}", str(number), key)


def dates(rng: Random) -> Task:
    day = date(1950, 1, 1) + timedelta(days=rng.randrange(36525))
    forms = {
        "ISO": day.isoformat(),
        "long": f"{day.day} {MONTHS[day.month - 1]} {day.year}",
        "US": f"{day.month:02}/{day.day:02}/{day.year}",
    }
    source, target = rng.sample(sorted(forms), 2)
    return ask("dates", f"Date to {target}: {forms[source]}", forms[target], day.isoformat())


def _record(rng: Random) -> tuple[str, str, str]:
    who, age, city = name(rng), rng.randint(18, 89), rng.choice(CITIES)
    written = json.dumps({"name": who, "age": age, "city": city})
    return who, written, f"{who} is {age} and lives in {city}."


def to_json(rng: Random) -> Task:
    who, written, sentence = _record(rng)
    return ask("to_json", f"As JSON: {sentence}", written, who)


def from_json(rng: Random) -> Task:
    who, written, sentence = _record(rng)
    return ask("from_json", f"In a sentence: {written}", sentence, who)


def think(rng: Random) -> Task:
    """An addition with the thought channel: digits and carry first, then the sum."""
    a, b, key = _sum(rng)
    ones = a % 10 + b % 10
    tens = a // 10 + b // 10 + ones // 10
    thought = f"{a % 10} + {b % 10} = {ones}, {a // 10} + {b // 10} + {ones // 10} = {tens}"
    return ask("think", f"Add: {a} + {b}", str(a + b), key, thought=thought)


def tool(rng: Random) -> Task:
    """A question for a declared tool; the right answer is the call, in the model's own markers."""
    who, city = name(rng), rng.choice(CITIES)
    question, tool_name, key, value = rng.choice(
        (
            (f"What is the weather in {city}?", "weather", "city", city),
            (f"Call {who}.", "phone", "name", who),
            (f"Where does {who} live?", "address", "name", who),
            (f"What time is it in {city}?", "clock", "city", city),
        )
    )
    declaration = {
        "type": "function",
        "function": {
            "name": tool_name,
            "parameters": {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
        },
    }
    call = f'<|tool_call>call:{tool_name}{{{key}:<|"|>{value}<|"|>}}<tool_call|>'
    return Task(
        family="tool",
        messages=({"role": "user", "content": question},),
        answer=call,
        key=value,
        check=lambda text: text == call,
        tools=(declaration,),
    )
