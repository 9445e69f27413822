"""A journal and a record are read only if all of them is what an evaluation writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.answers.evaluation import Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.journal import FinishedBatch, Journal
from mlx_diffusion.measure.answers.one_step_bound import FirstStep

HEADER: dict[str, Any] = {
    "plan": {"ways": [{"label": "one"}], "families": {"copy": {"prompts": 6, "digest": "x"}}, "batch_size": 4}
}
OUTCOME = PromptOutcome(True, 3, 1, 0, 12, "fig")


def change(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda line: line.update(fields)


def in_outcome(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda line: line["outcomes"][0].update(fields)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "journal", HEADER)
    journal.add(FinishedBatch(0, "copy", 0, 1.5, (OUTCOME,) * 4))
    journal.add_first_step(0, FirstStep(3, True, False))
    journal.close()
    return tmp_path / "journal"


def test_a_whole_one_is_gone_on_with(file: Path) -> None:
    journal = Journal(file, HEADER)
    assert journal.batches[0].outcomes == (OUTCOME,) * 4 and len(journal.first_steps) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line["outcomes"].pop(), lambda line: line["outcomes"].append(line["outcomes"][0]),
        change(way=1), change(way="0"), change(way=True), change(family="sort"), change(family=[]), change(start=1),
        change(start=8), change(start=None), change(seconds="1"), change(seconds=float("nan")), change(outcomes=None),
        in_outcome(right=1), in_outcome(steps="3"), in_outcome(tokens=-1), in_outcome(canvases=10**400),
        in_outcome(answer=None), in_outcome(limited=2.5), change(index=0),
    ],
)  # fmt: skip
def test_a_damaged_batch_is_one_line(damage: Callable[[dict[str, Any]], object], file: Path) -> None:
    head, batch, step = file.read_text().splitlines()
    line = json.loads(batch)
    damage(line)
    file.write_text("\n".join([head, json.dumps(line), step, ""]))
    with pytest.raises(EvaluationError, match="is no measurement that can be gone on with; remove it"):
        Journal(file, HEADER)


@pytest.mark.parametrize("step", [{"length": "3"}, {"draw": 1}, {"index": -1}, {"index": "0"}, {"length": 10**9}])
def test_a_damaged_first_step_is_one_line(step: dict[str, Any], file: Path) -> None:
    *lines, last = file.read_text().splitlines()
    file.write_text("\n".join([*lines, json.dumps(json.loads(last) | step), ""]))
    with pytest.raises(EvaluationError, match="is no measurement"):
        Journal(file, HEADER)


def test_a_batch_twice_or_a_deep_line_is_one_line(file: Path) -> None:
    head, batch, step = file.read_text().splitlines()
    for lines in ([head, batch, batch, step], [head, "[" * 100_000]):
        file.write_text("\n".join([*lines, ""]))
        with pytest.raises(EvaluationError, match="is no measurement"):
            Journal(file, HEADER)


@pytest.mark.parametrize(
    "damage",
    [
        lambda cell: [cell[name].pop() for name in ("steps", "canvases", "limited", "tokens")]
        and cell.update(right=cell["right"][1:]),
        change(seconds="1"), change(right="2" * 4), lambda cell: cell["steps"].__setitem__(0, "3"),
        lambda cell: cell["tokens"].__setitem__(0, 1.5), lambda cell: cell["limited"].__setitem__(0, -1),
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_line(damage: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    content = json.loads((Path(__file__).parent.parent / "docs" / "quality.json").read_text())
    damage(content["cells"][0])
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match="is damaged") as caught:
        Evaluation.read(tmp_path / "record.json")
    assert "\n" not in str(caught.value)


def test_new_folders_are_the_user_s_alone(tmp_path: Path) -> None:
    Journal(tmp_path / "state" / "evaluations" / "journal", HEADER).close()
    for folder in (tmp_path / "state", tmp_path / "state" / "evaluations"):
        assert folder.stat().st_mode & 0o077 == 0
