"""The suites of texts that are known in part: their cases are right by their own checks, and figures add up."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_shallow

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.cli.main import main
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.known.cases import (
    form_cases,
    gap_cases,
    question_cases,
    read_gaps,
    worded_form_cases,
    worded_gap_cases,
    worded_question_cases,
)
from mlx_diffusion.measure.known.runs import Bin, WayFigures


def test_cases_are_right_by_their_own_checks_and_a_larger_count_begins_with_the_same() -> None:
    gaps = gap_cases(20, 0)
    assert all(case.is_right(case.gap) for case in gaps)
    assert not any(case.is_right("\0") for case in gaps)
    assert [case.gap for case in gap_cases(5, 0)] == [case.gap for case in gaps[:5]]
    assert all(set(case.values) == {"name", "age", "city"} for case in form_cases(5, 0))
    assert all(0 <= case.true < len(case.answers) for case in question_cases(20, 0))


def test_the_calibration_error_is_the_mean_distance_of_what_was_said() -> None:
    bins = (Bin(3, 0.9, 1.0), Bin(1, 0.5, 0.0))
    assert WayFigures("decisions", "way", 3, 4, None, bins).calibration_error == pytest.approx(0.75 * 0.1 + 0.25 * 0.5)


def test_the_error_by_chance_is_worked_out_from_the_number_of_answers() -> None:
    halves = (Bin(2, 0.5, 1.0), Bin(2, 1.0, 1.0))  # of two at 0.5 none, one or two are right: 0.5, 0 or 0.5 off
    assert WayFigures("decisions", "way", 4, 4, None, halves).error_by_chance == pytest.approx(0.5 * 0.25)
    many = WayFigures("decisions", "way", 700, 1000, None, (Bin(1000, 0.7, 0.7),)).error_by_chance
    assert many == pytest.approx((2 / np.pi * 0.7 * 0.3 / 1000) ** 0.5, rel=0.01)


def test_worded_cases_are_the_same_asked_in_words() -> None:
    gaps = worded_gap_cases(20, 0)
    assert all(case.is_right(case.gap) and not case.is_right("\0") for case in gaps)
    assert all(case.context and not re.match(r"[A-Z]\w+: ", case.context) for case in gaps)
    for plain, asked in zip(form_cases(5, 0), worded_form_cases(5, 0), strict=True):
        assert plain.values == asked.values and asked.context.endswith(plain.context.removeprefix("As JSON: "))
    assert {case.true for case in worded_question_cases(20, 0)} == {case.true for case in question_cases(20, 0)}


def test_gaps_are_read_from_a_packed_file_that_is_whole(tmp_path: Path) -> None:
    line = {
        "task_id": "SingleLineInfilling/HumanEval/0/L0", "entry_point": "f", "prompt": "def f():\n",
        "suffix": "1", "canonical_solution": "    return ", "test": "def check(f):\n    assert f() == 1",
    }  # fmt: skip
    file = tmp_path / "HumanEval-SingleLineInfilling.jsonl.gz"
    packed = gzip.compress(json.dumps(line).encode())
    file.write_bytes(packed)
    (case,) = read_gaps(file)
    assert (case.before, case.after, case.gap) == ("def f():\n", "1", "    return ")
    for broken in (packed[:-9], packed[:10] + b"\xff" * 30):
        file.write_bytes(broken)
        with pytest.raises(EvaluationError, match="cannot be read"):
            read_gaps(file)


def test_gaps_are_read_from_a_file_and_faults_name_their_line(tmp_path: Path) -> None:
    file = tmp_path / "gaps.jsonl"
    line = {"prompt": "def f(x):\n", "suffix": "\n", "canonical_solution": "    return x\n", "task_id": "t"}
    file.write_text(json.dumps(line) + "\n\n")
    (case,) = read_gaps(file)
    assert case.is_right("    return x") and not case.is_right("    return y")
    for bad in ("{", "[]", json.dumps(line | {"suffix": 5})):
        file.write_text(json.dumps(line) + "\n" + bad)
        with pytest.raises(EvaluationError, match="line 2"):
            read_gaps(file)


def test_suites_run_from_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_diffusion.structure.endings.SECONDS", 0.1)  # of a search that finds nothing
    folder = write_shallow(DEMO_FOLDER, tmp_path / "checkpoint", max_denoising_steps=2)
    page = tmp_path / "page.md"
    argv = ["eval", "--model", str(folder), "--suite", "forms,worded-decisions", "--count", "1", "--json"]
    assert main([*argv, "--markdown", str(page)]) == 0
    ways = json.loads(capsys.readouterr().out)["ways"]
    assert {way["suite"] for way in ways} == {"forms", "worded-decisions"}
    assert "| suite | way |" in page.read_text()
    assert main([*argv, "--mode", "reference"]) == 2
    assert main(["eval", "--suite", "infill,lists"]) == 2
