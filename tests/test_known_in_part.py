"""Gaps and questions: parts and gap make up a right answer, the split is that of the task, and answers are true."""

import json
import re
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion.canvas_prompts import gaps_prompt, questions_prompt
from mlx_diffusion.measure.tasks import FAMILIES, split_of
from mlx_diffusion.measure.tasks.known_in_part import Asked, asked, gapped, questions

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_the_parts_of_a_gapped_text_are_parts_of_its_answer(seed: int) -> None:
    found = gapped(Random(seed))
    text, start = found.task.answer, 0
    assert found.task.is_right(text)
    assert text.startswith(found.parts[0]) and text.endswith(found.parts[-1])
    for part in found.parts:
        start = text.index(part, start) + len(part)
    assert sum(map(len, found.parts)) < len(text)
    assert found.task.messages[-1]["content"] == gaps_prompt(found.parts, found.context)


@given(SEEDS)
def test_a_gapped_text_is_held_out_with_the_task_that_it_answers(seed: int) -> None:
    """Otherwise training would see the answers that are to be measured."""
    task = gapped(Random(seed)).task
    assert task.family in FAMILIES and task.key is not None
    named = re.search(r"As JSON: (\w+)", task.messages[-1]["content"])
    if named:
        assert split_of(task.family, task.key) == split_of("to_json", named[1])


def true_answers(found: Asked) -> list[str]:
    """Answers read from the state by other means; "" where it does not tell."""
    record = re.search(r"(?P<who>\w+) is (?P<age>\d+) and lives in (?P<city>\w+)\.", found.state)
    items: list[str] = []
    if found.state.startswith("{"):
        named = json.loads(found.state)
        age, city = named["age"], named["city"]
    elif record:
        age, city = int(record["age"]), record["city"]
    elif found.state.endswith("."):
        return [""] * len(found.questions)
    else:
        age, city, items = 0, "", found.state.split()
    answers = []
    for text, choices in found.questions:
        if over := re.search(r"over (\d+)\?", text):
            answers.append("yes" if age > int(over[1]) else "no")
        elif other := re.search(r"live in (\w+)\?", text):
            answers.append("yes" if other[1] == city else "no")
        elif text.startswith("Where"):
            answers.append(city)
        elif text.startswith("How old"):
            low, high = map(int, re.findall(r"\d+", choices[1])[1:])
            answers.append("0" if age < low else "1" if age <= high else "2")
        elif word := re.search(r"Is (\w+) in the list", text):
            answers.append("yes" if word[1] in items else "no")
        else:
            answers.append({"Which is first?": items[0], "Which is last?": items[-1]}[text])
    return answers


@given(SEEDS)
def test_the_answers_are_true_and_among_the_choices(seed: int) -> None:
    found, task = asked(Random(seed)), questions(Random(seed))
    given_answers = [line.partition(". ")[2] for line in task.answer.split("\n")]
    assert task.messages[-1]["content"] == questions_prompt(found.state, found.questions)
    for answer, true, (_, choices) in zip(given_answers, true_answers(found), found.questions, strict=True):
        assert true in ("", answer)
        names = [choice.split(":")[0] for choice in choices]
        assert answer in names and len(set(names)) == len(names)


def test_a_marker_that_stands_in_the_text_is_not_used() -> None:
    assert gaps_prompt(["a ___ b ", " c"], "Say").endswith("\na ___ b ____ c")
    assert gaps_prompt(["a", "b"]).startswith("Fill in ___ ")
