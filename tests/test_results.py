"""The results of an evaluation: figures and comparisons worked out by hand, and files that are damaged."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.published import CONFIG
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.fit.chips import SHOWN
from mlx_diffusion.fit.prediction import ModelShape, Pass, Schedule, predict
from mlx_diffusion.measure.answers.comparison import compare
from mlx_diffusion.measure.answers.evaluation import Cell, Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.figures import Figures, figures_dict, recommended_variant
from mlx_diffusion.measure.answers.one_step_bound import FirstStep, one_step_bounds
from mlx_diffusion.measure.answers.predicted_speed import predicted_speeds, schedule_of_outcomes
from mlx_diffusion.measure.answers.recipe_costs import CostReport

DOCS = Path(__file__).parent.parent / "docs"


def test_figures_by_hand() -> None:
    outcomes = [PromptOutcome(True, 4, 1, 0, 10), PromptOutcome(False, 12, 2, 1, 30)]
    found = Figures.of(outcomes, 1.5, canvas_length=64)
    assert (found.prompts, found.right, found.accuracy) == (2, 1, 0.5)
    assert found.steps_per_canvas == pytest.approx(16 / 3)
    assert found.positions_per_token == pytest.approx((16 + 1) * 64 / 40), "the first of two canvases was encoded"
    assert found.passes_per_token == pytest.approx((16 + 1) / 40)
    assert found.accepted_per_round is None
    assert found.tokens_per_forward == pytest.approx(40 / 16)
    assert found.limited == pytest.approx(1 / 3)


PLAIN = PromptOutcome(True, 0, 0, 0, 11, "", 100, 0, (("decode", 1, 10),))
DRAFTED = PromptOutcome(True, 2, 0, 0, 9, "", 50, 5, (("decode", 1, 1), ("decode", 4, 2), ("draft", 8, 2)))


def test_figures_of_plain_and_drafted_writing_by_hand() -> None:
    plain, drafted = Figures.of([PLAIN], 1.0, 64), Figures.of([DRAFTED, DRAFTED], 1.0, 64)
    assert (plain.passes_per_token, plain.positions_per_token) == pytest.approx((10 / 11, 10 / 11))
    assert (plain.steps_per_canvas, plain.tokens_per_forward, plain.accepted_per_round) == (None, None, None)
    assert drafted.passes_per_token == pytest.approx(5 / 9)
    assert drafted.positions_per_token == pytest.approx((1 + 2 * 4 + 2 * 8) / 9)
    assert drafted.accepted_per_round == pytest.approx(5 / 3)


def test_a_prediction_by_hand() -> None:
    """Ten passes of one position, in the middle of the text, for eleven tokens: the first came with the prompt."""
    shape = ModelShape.of_recipe(ModelConfig.from_dict(CONFIG), RECIPES["4bit"])
    found = predicted_speeds([PLAIN], 64)
    assert found is not None and list(found) == ["M1 Ultra", "M4 Pro", "M5 Max (40)"]
    for chip in SHOWN:
        one = predict(Schedule((), (Pass("decode", 1, 105, 1),), 1), shape, chip).writing.total
        assert found[chip.label] == pytest.approx(11 / (10 * one))
    canvases = replace(PLAIN, steps=7, canvases=2, work=None)
    schedule = schedule_of_outcomes([canvases], 64)
    assert schedule is not None
    kinds = [(one.kind, one.times, one.logits) for one in schedule.writing]
    assert kinds == [("denoise", 5, 64), ("draft", 2, 64), ("encode", 1, 0)]
    assert predicted_speeds([replace(canvases, prompt_tokens=None)], 64) is None, "an earlier record"


def test_records_of_all_ways_are_kept_and_earlier_ones_are_read(tmp_path: Path) -> None:
    one = record(["1"], ["1"])
    cells = {(0, "f0"): Cell((PLAIN,), 1.0), (1, "f0"): Cell((DRAFTED,), 1.0)}
    for kept, later in ((one, False), (replace(one, cells=cells), True)):
        (tmp_path / "r.json").write_text(kept.to_json(answers=False))
        assert Evaluation.read(tmp_path / "r.json") == kept
        assert ('"work"' in (tmp_path / "r.json").read_text()) == later


@pytest.mark.parametrize(
    "change",
    [{"work": None}, {"steps": 1}, {"accepted": 7}, {"work": (("decode", 4, 2), ("decode", 4, 2), ("draft", 8, 2))},
     {"work": (("guess", 4, 2), ("draft", 8, 2))}, {"prompt_tokens": 0}],
)  # fmt: skip
def test_passes_that_cannot_be_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    wrong = {(0, "f0"): Cell((replace(DRAFTED, **change),), 1.0)}
    (tmp_path / "r.json").write_text(replace(record(["1"]), cells=wrong).to_json(answers=False))
    with pytest.raises(EvaluationError, match="is damaged"):
        Evaluation.read(tmp_path / "r.json")


def test_a_draft_beside_a_prompt_is_priced_by_what_it_adds_to_the_prompts_pass() -> None:
    """Behind a prompt of more than one part, that is its last part."""
    shape = ModelShape.of_recipe(ModelConfig.from_dict(CONFIG), RECIPES["4bit"])
    work = (("beside", 8, 1), ("decode", 6, 1))
    for prompt, part in ((50, 50), (2056, 8)):
        outcome = PromptOutcome(True, 1, 0, 0, 7, "", prompt, 5, work)
        found, both = predicted_speeds([outcome], 64), Figures.of([outcome], 1.0, 64)
        assert found is not None
        assert (both.passes_per_token, both.positions_per_token) == pytest.approx((1 / 7, (8 + 6) / 7))
        for chip in SHOWN:
            before, passes = prompt - part, [Pass("decode", 6, prompt + 3, 6)]
            verify, joined, alone = (
                predict(Schedule((), (one,), 1), shape, chip).writing.total
                for one in (*passes, Pass("decode", part + 8, before, 9), Pass("decode", part, before, 1))
            )
            assert found[chip.label] == pytest.approx(7 / (verify + joined - alone))


def record(*rights: list[str], steps: int = 4, digest: str = "d") -> Evaluation:
    """A record of one family a word and one way a list; a word has 1 for each right answer."""
    families = {f"f{n}": {"prompts": len(right), "digest": digest} for n, right in enumerate(rights[0])}
    described = [{"label": f"w{way}", "mode": "reference", "options": {}} for way in range(len(rights))]
    cells = {
        (way, family): Cell(tuple(PromptOutcome(mark == "1", steps + way, 1, 0, 8) for mark in right), 1.0)
        for way, own in enumerate(rights)
        for family, right in zip(families, own, strict=True)
    }
    header = {"model": "m", "checkpoint": "c", "canvas_length": 64, "device": "cpu"}
    plan = {"ways": described, "families": families, "seed": 0, "max_tokens": 8, "batch_size": 1}
    return Evaluation({**header, "plan": plan}, cells)


def test_a_comparison_by_hand() -> None:
    a = record(["1" * 10 + "0" * 10, "11110000"])
    b = record(["1" * 20, "11110001"], steps=9)
    (found,) = compare(a, b)
    every, first, second = found.differences
    assert (first.gained, first.lost, first.accuracy) == (10, 0, (0.5, 1.0))
    assert first.p == pytest.approx(2 * 2 / 2**10) and first.real  # twice: Holm's over two families
    assert second.p == 1
    assert not second.real
    assert every.gained == 11
    assert every.p == pytest.approx(2 / 2**11)
    assert list(first.steps) == [4, 9]
    assert first.real_steps


def test_a_comparison_across_ways_is_of_answers_alone() -> None:
    drafted = {(0, "f0"): Cell((DRAFTED, replace(DRAFTED, right=False)), 1.0)}
    (found,) = compare(record(["00"]), replace(record(["00"]), cells=drafted))
    assert (found.differences[0].gained, found.differences[0].steps, found.differences[0].p_steps) == (1, (4, 0), 1)


def test_prompts_that_differ_are_not_compared() -> None:
    with pytest.raises(EvaluationError, match="prompts of f0 differ"):
        compare(record(["10"]), record(["10"], digest="other"))
    with pytest.raises(EvaluationError, match="no way of running in common"):
        two = record(["10"], ["11"])
        other = {**two.header, "plan": {**two.header["plan"], "ways": [{"label": "x"}, {"label": "y"}]}}
        compare(two, replace(two, header=other))


def test_the_cheapest_way_that_can_be_vouched_for_is_recommended() -> None:
    """w0 has the fewest positions, w2 the most."""
    good = "1" * 500
    assert recommended_variant(record([good], [good], [good])) == 0
    assert recommended_variant(record(["0" * 50 + good[50:]], [good], [good])) == 1
    nine = "1" * 9 + "0"
    assert recommended_variant(record([nine], [nine], ["1" * 10])) == 2, "ten prompts vouch for little"


def test_the_bound_on_one_step() -> None:
    steps = [FirstStep(3, number < 50, False) for number in range(100)] + [FirstStep(2, True, True)]
    two, three = one_step_bounds(steps)
    assert (two.bound, three.bound) == pytest.approx((1 / 2, 6 / 27))
    assert two.holds and two.chance == pytest.approx(1 / 2)
    assert not three.holds, "half of the draws valid is more than 22 % allow"


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:50], lambda text: text.replace("evaluation 1", "evaluation 0"),
     lambda text: text.replace('"right"', '"wrong"'), lambda text: text.replace('"family":"f1"', '"family":"f0"')],
)  # fmt: skip
def test_a_damaged_record_is_one_line(damage: Callable[[str], str], tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(damage(record(["10", "11"]).to_json(answers=False)))
    with pytest.raises(EvaluationError, match=r"r\.json") as caught:
        Evaluation.read(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [("canvas_length",), ("canvas_length", 0), ("model", ["m"]), ("device", 5), ("plan", "ways", []),
     ("plan", "ways", 0, "options", ["x"]), ("plan", "ways", 0, "options", {"t_min": 10**400}), ("plan", "seed", -1),
     ("plan", "families", "f0", "prompts", True), ("cells", 0, "canvases", [0, 1]), ("cells", 0, "tokens", [0, 8]),
     ("cells", 0, "way", []), ("cells", 0, "seconds", 10**400), ("cells", 0, "answers", [1, 2]), ("cells", 5),
     ("plan", "ways", 0, "label", "\ud800")],
)  # fmt: skip
def test_a_record_is_checked_whole_before_anything_is_made_of_it(damage: tuple[Any, ...], tmp_path: Path) -> None:
    content = json.loads(record(["10"]).to_json(answers=True))
    *way, last, value = damage if len(damage) > 1 else (*damage, None)
    place = content
    for step in way:
        place = place[step]
    place[last] = value
    if len(damage) == 1:
        del place[last]
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=r"r\.json is damaged"):
        Evaluation.read(tmp_path / "r.json")


def test_report_has_all_figures() -> None:
    found = figures_dict(record(["10", "11"], ["11", "11"]))
    assert found["recommended"] == "w1" and [way["label"] for way in found["ways"]] == ["w0", "w1"]
    assert found["ways"][1]["all"]["accuracy"] == 1 and found["ways"][0]["families"]["f0"]["right"] == 1
    json.dumps(found)


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:50], lambda text: text.replace("recipes 1", "recipes 0"),
     lambda text: text.replace('"recipe"', '"repice"'), lambda text: text.replace('"limited"', '"limit"'),
     lambda text: text.replace('"weight_bytes": ', '"weight_bytes": -0.5e'), lambda text: text.replace('"p"', '"q"'),
     lambda text: re.sub(r'"steps_per_canvas": [\d.]+', '"steps_per_canvas": 0', text),
     lambda text: text.replace('"differences": [', '"differences": [], "d": ['),
     lambda text: text.replace('"copy": {', '"copy": 5, "x": {'),
     lambda text: text.replace('"equal": 1.0', '"equal": []')],
)  # fmt: skip
def test_a_damaged_cost_report_is_one_line(damage: Callable[[str], str], tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(damage((DOCS / "recipes.json").read_text()))
    with pytest.raises(EvaluationError, match=r"r\.json") as caught:
        CostReport.read(file)
    assert "\n" not in str(caught.value)
