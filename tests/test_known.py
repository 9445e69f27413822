"""The suites of texts that are known in part: their cases are right by their own checks, and figures add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import write_shallow

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.cli.main import main
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.known.cases import form_cases, gap_cases, question_cases, read_gaps
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


def test_suites_run_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_shallow(DEMO_FOLDER, tmp_path / "checkpoint")
    page = tmp_path / "page.md"
    argv = ["eval", "--model", str(folder), "--suite", "forms,decisions", "--count", "1", "--json"]
    assert main([*argv, "--markdown", str(page)]) == 0
    ways = json.loads(capsys.readouterr().out)["ways"]
    assert {way["suite"] for way in ways} == {"forms", "decisions"}
    assert "| suite | way |" in page.read_text()
    assert main([*argv, "--mode", "reference"]) == 2
    assert main(["eval", "--suite", "infill,lists"]) == 2
