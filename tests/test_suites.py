"""What is measured: prompts that training cannot have seen, checkers that take right answers and no others."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.errors import EvaluationError, OptionError
from mlx_diffusion.measure.answers.checkers import CHECKERS
from mlx_diffusion.measure.answers.item import Item
from mlx_diffusion.measure.answers.plan import prompts_by_family
from mlx_diffusion.measure.answers.suite_file import read_suite
from mlx_diffusion.measure.answers.suites import HELD, SUITES, all_families, draw_items, families_of, suite_names
from mlx_diffusion.measure.tasks import FAMILIES, draw
from mlx_diffusion.measure.tasks.worded import WORDED, worded
from mlx_diffusion.structure.constraint import read_constraint
from mlx_diffusion.structure.guide import first_guide
from mlx_diffusion.tokenizer import load_tokenizer

FEW = {"tool": 38}  # of its questions most are in the training split


def test_every_family_has_one_suite() -> None:
    families = [family for suite in SUITES.values() for family in suite]
    assert sorted(families) == sorted(FAMILIES)
    assert families_of(["all"]) == families
    assert families_of(["squares", "copy", "latin"]) == ["copy", "latin", "sudoku"]
    assert families_of(["worded-squares"]) == ["worded-latin", "worded-sudoku"]
    assert "worded-lists" in suite_names() and "worded-records" not in suite_names()


def test_the_suite_schema_asks_what_the_plain_families_ask_and_holds_what_is_right() -> None:
    assert families_of(["schema"]) == list(HELD) and "schema" in suite_names()
    for name, (plain, constraint) in HELD.items():
        held, free = draw_items(name, 5, seed=0), draw_items(plain, 5, seed=0)
        assert [item.messages for item in held] == [item.messages for item in free]
        assert not {item.digest() for item in held} & {item.digest() for item in free}
        assert all(item.constraint == constraint for item in held)
        tokenizer, rng = load_tokenizer(DEMO_FOLDER), Random(0)
        for _ in range(20):
            place = first_guide(read_constraint(constraint), tokenizer, 1024, (1, 5), ())
            tokens = tokenizer.encode(FAMILIES[plain](rng).answer, add_special_tokens=False)
            assert place.advance(tokens) == len(tokens) and place.ending() == []


@pytest.mark.parametrize("name", ["lits", "worded-stories", "", "tol"])
def test_an_unknown_suite_is_one_line(name: str) -> None:
    with pytest.raises(OptionError, match="unknown suite") as caught:
        families_of([name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", [family for suite in SUITES.values() for family in suite])
def test_no_prompt_is_in_the_training_stream(family: str) -> None:
    rng = Random(f"train {family}")
    trained = {Item.of(draw(FAMILIES[family], rng, "train")).digest() for _ in range(4000)}
    count = FEW.get(family, 60)
    items = draw_items(family, count, seed=0)
    digests = [item.digest() for item in items]
    assert len(set(digests)) == count
    assert trained.isdisjoint(digests)
    assert digests[:20] == [item.digest() for item in draw_items(family, 20, seed=0)]
    assert digests[:20] != [item.digest() for item in draw_items(family, 20, seed=1)]


def test_families_have_enough_prompts_for_the_default_count_and_say_when_not() -> None:
    assert len(draw_items("story", 200, 0)) == 200  # the family with the fewest but FEW
    assert {family: len(items) for family, items in prompts_by_family(["tools"], 200, 0).items()} == FEW
    with pytest.raises(OptionError, match=r"story has 2[0-9][0-9] held-out prompts; lower --count 2000"):
        prompts_by_family(["story"], 2000, 0)


@pytest.mark.parametrize("family", WORDED)
def test_wordings_keep_the_check_and_are_tolerant_only_where_they_say(family: str) -> None:
    rng = Random(family)
    for _ in range(20):
        task = FAMILIES[family](rng)
        asked = worded(task)
        assert asked.family == f"worded-{family}" and asked.family in all_families()
        assert asked.is_right(task.answer)
        assert not asked.is_right("")
        assert not asked.is_right(f"Here you are: {task.answer}")
        assert not asked.is_right(f"{task.answer} fig")
        content = asked.messages[0]["content"]
        given = task.messages[0]["content"].partition(": ")[2]
        words = given if family == "latin" else given.split()
        assert all(word in content for word in words)


def test_what_a_wording_leaves_open() -> None:
    rng = Random(0)
    number = next(task for task in iter(lambda: FAMILIES["to_words"](rng), None) if " hundred " in task.answer)
    assert worded(number).is_right(number.answer.replace(" hundred ", " Hundred and ") + ".")
    assert not worded(number).is_right(number.answer.replace("hundred", "thousand"))
    grid = FAMILIES["sudoku"](rng)
    spaced = "\n".join(" ".join(line) + "  " for line in grid.answer.splitlines())
    assert worded(grid).is_right(spaced) and not worded(grid).is_right(spaced[::-1] + "1")


RIGHT_AND_WRONG: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"answer": "144"}, ["144", " 144\n"], ["145", "1440", "144.", ""]),
    ({"answer": ["red", "blue"]}, ["red", "blue"], ["red blue", "green"]),
    ({"regex": r"\d{4}-\d\d"}, ["2024-03"], ["2024-3", "x2024-03", "2024-03 ok"]),
    ({"checker": "contains", "part": "sky"}, ["the sky is"], ["the sea"]),
    ({"checker": "number", "value": 12.5}, ["12.5", "3 + 9.5 = 12.5"], ["12.5 or 13", "12", "none"]),
    ({"checker": "number", "value": 1200, "tolerance": 1}, ["1,201"], ["1,202"]),
    ({"checker": "json", "value": {"a": [1], "b": None}}, ['{"b": null, "a": [1]}'], ['{"a": [1]}', "{", "a"]),
    ({"checker": "permutation", "items": ["a", "b", "c"]}, ["c a b"], ["a b", "a b b", "a b c c", "a b d"]),
    ({"checker": "insertion", "items": ["a", "b"], "item": "x"}, ["x a b", "a x b", "a b x"], ["a b", "b x a"]),
    ({"checker": "removal", "items": ["a", "b", "c"]}, ["a b", "a c"], ["a b c", "b a", "a", ""]),
    ({"checker": "replacement", "items": ["a", "b"], "item": "x"}, ["x b", "a x"], ["a b", "x x", "x a b"]),
    ({"checker": "latin", "items": ["a", "b"]}, ["a b\nb a", "ab\nba"], ["a b\na b", "a b", "a b\nb c"]),
    (
        {"checker": "sudoku", "clues": ["1000", "0012", "2043", "0000"]},
        ["1234\n3412\n2143\n4321", "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"],
        ["1234\n3412\n2143\n4312", "1234\n2341\n3412\n4123", "1234", "2134\n4312\n1243\n3421"],
    ),
]  # fmt: skip


def test_every_checker_is_tried() -> None:
    assert {given.get("checker") for given, _, _ in RIGHT_AND_WRONG} - {None} == set(CHECKERS)


@pytest.mark.parametrize(("given", "right", "wrong"), RIGHT_AND_WRONG)
def test_a_file_s_checks(given: dict[str, Any], right: list[str], wrong: list[str], tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"prompt": "p", **given}) + "\n\n")
    ((item,),) = read_suite(file).values()
    assert item.family == "own"
    assert all(item.is_right(text) for text in right)
    assert not any(item.is_right(text) for text in wrong)


def test_another_check_makes_another_suite(tmp_path: Path) -> None:
    """Outcomes of before were judged by the check of before."""
    checks: list[dict[str, Any]] = [
        {"answer": "a"}, {"answer": "b"}, {"answer": ["a", "b"]}, {"regex": "a"}, {"regex": "a|b"},
        {"checker": "number", "value": 5}, {"checker": "number", "value": 6},
        {"checker": "number", "value": 5, "tolerance": 1}, {"checker": "permutation", "items": ["a"]},
        {"checker": "permutation", "items": ["a", "b"]},
    ]  # fmt: skip
    digests = []
    for given in [*checks, checks[0]]:
        (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "p", **given}))
        ((item,),) = read_suite(tmp_path / "own.jsonl").values()
        digests.append(item.digest())
    assert len({*digests}) == len(checks) and digests[-1] == digests[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: no JSON object"),
        ('{"answer": "a"}', "line 2: prompt is None"),
        ('{"prompt": "p"}', "line 2: give one of answer, regex, checker"),
        ('{"prompt": "p", "answer": "a", "regex": "a"}', "the line has answer and regex"),
        ('{"prompt": "p", "answer": 5}', "answer is 5"),
        ('{"prompt": "p", "regex": "("}', "no regular expression"),
        ('{"prompt": "p", "checker": "eval"}', "unknown checker 'eval'"),
        ('{"prompt": "p", "checker": "removal"}', "needs 'items'"),
        ('{"prompt": "p", "checker": "removal", "items": "abc"}', "items is 'abc'"),
        ('{"prompt": "p", "checker": "sudoku", "clues": ["10", "00"]}', "4 rows of 4"),
        ('{"prompt": "p", "answer": "a", "anwser": "b"}', "unknown field 'anwser'"),
        ('{"prompt": "p", "answer": "a", "family": 3}', "family is 3"),
        ('{"prompt": "p", "answer": "a", "family": "two\\nlines"}', "text of one line"),
        ('{"prompt": "p", "answer": "a", "family": "' + "x" * 101 + '"}', "at most 100 characters"),
        ('{"prompt": "p", "regex": "' + "x" * 10_001 + '"}', "10,000 are the most"),
        ('{"prompt": "p", "regex": "a{99999999999999}"}', "no regular expression"),
        ('{"prompt": "p", "checker": []}', "unknown checker []"),
        ('{"prompt": "p", "checker": "number", "value": 1' + "0" * 400 + "}", "it must be a finite number"),
        ('{"prompt": "p", "checker": "number", "value": 1, "tolerance": NaN}', "tolerance is nan"),
        ('{"prompt": "p", "checker": "sudoku", "clues": ["12 34", "0000", "0000", "0000"]}', "4 rows of 4"),
        ('{"prompt": [{"role": "user", "content": 5}], "answer": "a"}', "prompt: message 1 has a content that is 5"),
        ('{"prompt": [7], "answer": "a"}', "prompt: message 1 is 7"),
        ('{"prompt": "\\ud800", "answer": "a"}', "not valid Unicode"),
        ('{"prompt": ' + "[" * 200 + "]" * 200 + "}", "no JSON (it goes more than 100 levels deep)"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "p", "answer": "a"}\n' + line)
    with pytest.raises(EvaluationError, match=r"own\.jsonl, line 2") as caught:
        read_suite(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_pattern_that_would_run_for_years_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_diffusion.measure.answers.patterns.SECONDS", 0.05)
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "p", "regex": "(?:(?:a{1,1000}){1,1000}){1,1000}b"}')
    ((item,),) = read_suite(file).values()
    assert item.is_right("aaab")
    with pytest.raises(EvaluationError, match=r"own\.jsonl, line 1: regex takes more than 0\.05 s on an answer"):
        item.is_right("a" * 60 + "b" + "c")


def test_an_answer_that_json_nests_too_deep_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "p", "checker": "json", "value": [[1]]}')
    ((item,),) = read_suite(file).values()
    assert item.is_right("[[1]]") and not item.is_right("[" * 100_000)


def test_a_suite_is_read_from_no_pipe_or_device(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="it is no regular file"):
        read_suite(Path("/dev/zero"))


def test_an_answer_follows_its_thoughts() -> None:
    item = Item("f", ({"role": "user", "content": "p"},), lambda text: text == "5")
    assert item.is_right("<|channel>thought\n2 + 3 = 6<channel|>5") and not item.is_right("5<channel|>6")
