"""Calibrations: tests that may stop at any time, the search for levers, the file that it writes, and bad files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIXTURES, write_shallow
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffusion.checkpoint.fingerprint import fingerprint
from mlx_diffusion.checkpoint.speed import SPEED_FILE, HeldLevers, Levers, read_speed
from mlx_diffusion.cli.doctor import diagnosis_text
from mlx_diffusion.cli.main import main
from mlx_diffusion.fit.diagnosis import KnownLevers, diagnose
from mlx_diffusion.loading import load
from mlx_diffusion.measure.answers import calibration_runs
from mlx_diffusion.measure.answers.calibration import CalibrationPlan, calibrate
from mlx_diffusion.measure.answers.calibration_runs import Drawn, Judged, draw_prompts
from mlx_diffusion.measure.answers.lever_search import ALLOWANCES, Search, lever_table
from mlx_diffusion.measure.answers.sequential import LEVEL, SHARES, Pairs
from mlx_diffusion.measure.answers.suites import draw_items
from mlx_diffusion.modes import SAFE_LEVERS
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.whole_files import write_whole


@pytest.mark.parametrize(("loss", "bound"), [(0.02, 0.02), (0.005, 0.005), (0.1, 0.02)])
def test_a_loss_at_its_bound_is_seldom_taken_for_less_however_often_one_looks(loss: float, bound: float) -> None:
    rng, fooled, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        draws = rng.random(600)
        lost, gained = np.cumsum(draws < loss + 0.03), np.cumsum(draws > 0.97)
        looks = range(15, 600, 16)
        fooled += any(Pairs(n + 1, int(gained[n]), int(lost[n])).is_below(bound) for n in looks)
    assert fooled <= runs * LEVEL


def slow_wealth(losses: Sequence[int], bound: float) -> float:
    """What the gamblers have in the end, pair by pair."""
    wealth = dict(SHARES)
    for loss in losses:
        for share in wealth:
            wealth[share] *= 1 + share / (1 - bound) * (bound - loss)
    return sum(wealth.values())


@given(losses=st.lists(st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1]), min_size=1, max_size=300))
@settings(deadline=None, max_examples=30)
def test_what_is_sure_is_what_the_gamblers_have_won(losses: list[int]) -> None:
    pairs = Pairs(len(losses), losses.count(-1), losses.count(1))
    for bound in (0.005, 0.02, 0.3):
        assert pairs.is_below(bound) == (slow_wealth(losses, bound) >= 1 / LEVEL)
        assert pairs.is_above(bound) == (slow_wealth([-loss for loss in losses], -bound) >= 1 / LEVEL)


def test_an_ordinary_test_at_the_last_look_by_hand() -> None:
    """Half a pair is added on each side: 1.645 · √1 / 331 is below half a point, 1.645 · √1 / 301 is not."""
    assert Pairs(329, 0, 0).is_below_at_last(0.005) and not Pairs(299, 0, 0).is_below_at_last(0.005)
    assert Pairs(300, 9, 3).is_below_at_last(0.005) and not Pairs(300, 3, 9).is_below_at_last(0.03)


def test_what_is_sure_and_what_is_not() -> None:
    assert not Pairs(100, 0, 0).is_below(0.02) and Pairs(200, 0, 0).is_below(0.02)
    assert Pairs(60, 0, 9).is_above(0.02) and not Pairs(60, 0, 0).is_above(0.02)
    low, high = Pairs(400, 3, 5).interval()
    assert low < 0.005 < high
    assert Pairs(400, 5, 3).interval() == pytest.approx((-high, -low), abs=2e-4)
    assert Pairs(4000, 30, 50).interval()[1] < high


class Scripted:
    """Answers that lose with some levers: options -> share of right answers that they spoil."""

    batch_size = 16

    def __init__(self, spoilt: dict[str, float], saved: dict[str, float], count: int = 3000) -> None:
        (item,) = draw_items("copy", 1, 0)
        self.prompts = [Drawn(("a", "b")[number % 2], item, number) for number in range(count)]
        self.spoilt, self.saved, self.asked = spoilt, saved, 0
        self.luck = np.random.default_rng(0).random(count)

    def judged(self, levers: Levers, count: int) -> list[Judged]:
        self.asked = max(self.asked, count)
        bad = sum(self.spoilt.get(name, 0) for name in levers)
        share = 1 - sum(self.saved.get(name, 0.1) for name in levers if name != "refresh_every")
        share -= 1 - levers.get("early_end", 1)
        return [Judged(bool(self.luck[number] >= bad), round(1000 * share)) for number in range(count)]


def test_levers_that_cost_are_left_out_and_the_others_taken_together() -> None:
    answers = Scripted(
        {"lock_threshold": 0.14, "crop_threshold": 1.0, "first_canvas": 0.011}, {"max_denoising_steps": 0}
    )
    search = Search(answers, 3000)
    search.run(lever_table(64, 48))
    assert search.modes == {"balanced": {"early_end": 0.99}, "fast": {"early_end": 0.95, "first_canvas": 24}}
    verdicts = {(test.lever, test.mode): (test.verdict, test.prompts) for test in search.tested}
    assert verdicts["locks", ""][0] == verdicts["crop", ""][0] == "costs"
    assert verdicts["crop", ""][1] == 16 and verdicts["schedule", ""] == ("saves nothing", 64)
    assert verdicts["first canvas", "balanced"][0] != "holds" and verdicts["first canvas", "fast"][0] == "holds"
    assert ("locks", "fast") not in verdicts


def test_a_family_that_loses_alone_is_found() -> None:
    answers = Scripted({}, {})
    whole = answers.judged

    def spoils_b(levers: Levers, count: int) -> list[Judged]:
        spoilt = [number for number in range(1, count, 50) if "early_end" in levers]  # of family b, 1 in 25
        return [one._replace(right=number not in spoilt) for number, one in enumerate(whole(levers, count))]

    answers.judged = spoils_b  # type: ignore[method-assign]
    search = Search(answers, 1008)
    search.run(lever_table(64, 16)[:1])
    assert search.modes["balanced"] == {}


def test_prompts_of_more_pairs_begin_with_the_same() -> None:
    few, many = draw_prompts(["copy", "sudoku", "tool"], 20, 3), draw_prompts(["copy", "sudoku", "tool"], 40, 3)
    assert [(one.item.digest(), one.seed) for one in few] == [(one.item.digest(), one.seed) for one in many[:20]]
    assert {one.family for one in many} == {"copy", "sudoku", "tool"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = write_shallow(FIXTURES / "hub", tmp_path / "model", max_denoising_steps=4)
    return made


QUICK = CalibrationPlan(["copy"], most=4, max_tokens=4, batch_size=2)


def test_a_calibration_goes_on_where_it_was_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrate(folder, QUICK, workers=1)
    (folder / SPEED_FILE).unlink()
    ran: list[str] = []
    run = calibration_runs.Runs._run

    def interrupted(self: Any, *arguments: Any) -> Any:
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append("batch")
        return run(self, *arguments)

    monkeypatch.setattr(calibration_runs.Runs, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(folder, QUICK, workers=1)
    assert not (folder / SPEED_FILE).exists()
    estimates: list[float] = []
    monkeypatch.setattr(calibration_runs.Runs, "_run", run)
    again = calibrate(folder, QUICK, workers=1, estimate=estimates.append)
    assert {**again.content, "seconds": 0} == {**whole.content, "seconds": 0}
    assert json.loads((folder / SPEED_FILE).read_text()) == again.content
    assert estimates and estimates[0] > 0
    assert again.content["checkpoint"] == fingerprint(folder)
    assert not list((folder.parent / "state").rglob("*.part"))


def test_a_folder_that_cannot_be_written_has_its_file_kept_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Path, content: bytes, **named: Any) -> None:
        if file.parent == folder:
            raise PermissionError
        write_whole(file, content, **named)

    monkeypatch.setattr("mlx_diffusion.measure.answers.calibration.write_whole", refuse)
    found = calibrate(folder, QUICK, workers=1)
    assert found.file.parent.name == "speed" and not (folder / SPEED_FILE).exists()
    assert read_speed(folder) == found.content["modes"]


def speed_file(folder: Path, **changes: Any) -> None:
    modes = {"balanced": {"crop_threshold": 0.8}, "fast": {"max_denoising_steps": 7}}
    content = {"format": "mlx-diffusion speed 1", "checkpoint": fingerprint(folder), "modes": modes}
    (folder / SPEED_FILE).write_text(json.dumps(content | changes))


def test_modes_take_the_levers_of_the_file(folder: Path) -> None:
    speed_file(folder)
    model, _ = load(folder)
    own = model.generation_defaults.resolve(GenerationConfig(mode="balanced"))
    assert (own.crop_threshold, own.early_end) == (0.8, 1)
    assert model.generation_defaults.resolve(GenerationConfig(mode="fast")).max_denoising_steps == 7
    wished = GenerationConfig(mode="fast", max_denoising_steps=9)
    assert model.generation_defaults.resolve(wished).max_denoising_steps == 9
    assert not model.generation_defaults.resolve().levers


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checkpoint": "another"}, "another checkpoint"),
        ({"format": "mlx-diffusion speed 2"}, "later version"),
        ({"format": "something"}, "damaged"),
        ({"modes": {"balanced": {}}}, "damaged"),
        ({"modes": {"balanced": {"early_end": 7}, "fast": {}}}, "damaged"),
        ({"modes": {"balanced": {"seed": 7}, "fast": {}}}, "damaged"),
        ({"modes": [1]}, "damaged"),
        (None, "damaged"),
    ],
)
def test_a_file_that_is_no_use_is_one_line_and_the_safe_levers(
    folder: Path, changes: dict[str, Any] | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    speed_file(folder, **(changes or {}))
    if changes is None:
        (folder / SPEED_FILE).write_text("{")
    held = HeldLevers(folder)
    with pytest.warns(UserWarning, match=said) as caught:
        assert held("balanced") == SAFE_LEVERS["balanced"]
    assert len(caught) == 1 and "\n" not in str(caught[0].message) and "eval --calibrate" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert held("fast") == SAFE_LEVERS["fast"], "warned of once"
        assert held("reference") == {}
    assert main(["generate", "--model", str(folder), "--mode", "fast", "--max-tokens", "4", "--raw", "t20"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if said in line]
    assert len(lines) == 1 and lines[0].startswith("mlx-diffusion: ")
    assert KnownLevers.of("it", folder).modes == SAFE_LEVERS


def test_the_doctor_says_which_levers_modes_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [known.model for known in diagnose().levers][:1] == ["demo"]
    speed_file(folder)
    known = [KnownLevers.of("mine", folder), KnownLevers("other", SAFE_LEVERS, "not calibrated")]
    text = diagnosis_text(diagnose().__class__(**{**vars(diagnose()), "levers": known}))
    assert "levers    mine: balanced crop_threshold 0.8; fast max_denoising_steps 7\n" in text
    assert "levers    other: balanced early_end 0.99; fast early_end 0.95 (not calibrated)\n" in text


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "--calibrate", "--model", str(folder), "--suite", "copy", "--workers", "1", "--max-tokens", "4"]
    command += ["--count", "2", "--batch-size", "2"]
    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["modes"].keys() == ALLOWANCES.keys() and content["file"] == str(folder / SPEED_FILE)
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "early end" in out and "balanced " in out and str(folder / SPEED_FILE) in out


@pytest.mark.parametrize("more", [["--mode", "fast"], ["--sweep", "t_max=1"], ["-o", "x"], ["--show", "x"]])
def test_wrong_usage(more: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["eval", "--calibrate", *more])
    assert error.value.code == 2
