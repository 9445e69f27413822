"""A calibration: finds which levers of denoising hold on a checkpoint, and writes its speed.json.

Goes on where it was interrupted. Knows nothing of the command line.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx_diffusion
from mlx_diffusion.checkpoint.fingerprint import fingerprint
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.speed import KIND, SPEED_FILE, VERSION
from mlx_diffusion.device import on_cpu
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.fit.opening import find_model, verdict_on
from mlx_diffusion.fit.verdict import Warn
from mlx_diffusion.measure.answers.calibration_runs import Runs, draw_prompts
from mlx_diffusion.measure.answers.item import digest
from mlx_diffusion.measure.answers.lever_search import ALLOWANCES, ALONE, Lever, Search, Tested, lever_table
from mlx_diffusion.measure.answers.line_file import LineFile
from mlx_diffusion.measure.answers.suites import families_of
from mlx_diffusion.measure.answers.workers import default_workers, examinees_of
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.state import make_state_folder, state_folder
from mlx_diffusion.tokenizer import load_tokenizer
from mlx_diffusion.whole_files import write_whole

MOST = 1000  # pairs of a test
BATCH_SIZE = 16
MAX_TOKENS = 128


@dataclass(frozen=True)
class CalibrationPlan:
    """What decides the result of a calibration, except the checkpoint."""

    suites: Sequence[str] = ("all",)
    most: int = MOST
    seed: int = 0
    max_tokens: int = MAX_TOKENS
    batch_size: int = BATCH_SIZE

    def as_dict(self) -> dict[str, Any]:
        return {
            "families": families_of(self.suites),
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "batch_size": self.batch_size,
        }


@dataclass(frozen=True)
class Calibration:
    """A finished calibration: the content of its file, and where that is."""

    content: dict[str, Any]
    file: Path


def calibrate(
    model: str | Path,
    plan: CalibrationPlan,
    *,
    workers: int | None = None,
    estimate: Callable[[float], None] = lambda seconds: None,
    report: Callable[[str, float | None], None] = lambda doing, left: None,
    told: Callable[[Tested], None] = lambda tested: None,
    warn: Warn = lambda line: None,
    revision: str | None = None,
) -> Calibration:
    """Calibrate a checkpoint, or go on with the same calibration.

    `estimate` is told the seconds that it takes at most, once a batch has been timed; `report` what is being run and
    the seconds left at most; `told` each test that has ended. Raises `EvaluationError`, and `CheckpointError` where not
    all workers fit into memory.
    """
    found = find_model(model, warn, revision)
    tokenizer = load_tokenizer(found.folder)
    whole = -(-plan.most // plan.batch_size) * plan.batch_size
    prompts = draw_prompts(families_of(plan.suites), whole, plan.seed)
    header = _header(str(model), found, plan)
    table = lever_table(found.config.canvas_length, _steps(found))
    state = state_folder(os.environ)
    with ExitStack() as stack:
        journal = LineFile(state / "evaluations" / f"calibration-{digest(header)}.part", header, warn)
        stack.callback(journal.close)
        count = workers or default_workers(found)
        verdict_on(str(model), found, copies=count).heed(warn)
        examinees = stack.enter_context(examinees_of(found.folder, count))
        runs = Runs(
            prompts, examinees, tokenizer, journal, plan.batch_size, plan.max_tokens, found.config.canvas_length
        )
        rest = _Estimate(runs, _most_runs(table, plan), count, report)
        rest.begin(estimate)
        search = Search(runs, plan.most, told)
        search.run(table)
        if fingerprint(found.folder) != header["checkpoint"]:
            journal.remove()
            raise EvaluationError(f"{model}: its files changed while it was calibrated; calibrate it again")
        data = json.dumps(_content({**header, "most": plan.most}, runs, search), indent=1) + "\n"
        file = _written(found.folder, state, header["checkpoint"], data.encode())
        journal.remove()
    return Calibration(json.loads(data), file)


class _Estimate:
    """Tells how long the rest takes at most: as if no test stopped early and no lever saved anything."""

    def __init__(self, runs: Runs, most: int, workers: int, report: Callable[[str, float | None], None]) -> None:
        self._runs, self._most, self._workers = runs, most, workers
        self._report = report
        runs.report = self.tell

    def begin(self, estimate: Callable[[float], None]) -> None:
        """Time the first batches, where no earlier run has."""
        self._runs.judged({}, min(self._runs.batch_size * self._workers, len(self._runs.prompts)))
        estimate(self._left())

    def tell(self, doing: str) -> None:
        self._report(doing, self._left())

    def _left(self) -> float:
        done = self._runs.answered
        return max(self._most - done, 0) * self._runs.seconds / done / self._workers


def _most_runs(table: Sequence[Lever], plan: CalibrationPlan) -> int:
    """Answers at most: the reference's, each lever's alone, and those of each mode with one lever more each time."""
    return plan.most + len(table) * (min(ALONE, plan.most) + len(ALLOWANCES) * plan.most)


def _steps(found: Checkpoint) -> int:
    return GenerationConfig.from_checkpoint(found.folder).resolve().max_denoising_steps


def _header(model: str, found: Checkpoint, plan: CalibrationPlan) -> dict[str, Any]:
    """What answers depend on; how many there are at most is no part of it, so that more are a continuation."""
    return {
        "format": f"{KIND} {VERSION}",
        "model": Path(model).name,
        "checkpoint": fingerprint(found.folder),
        "canvas_length": found.config.canvas_length,
        "device": "cpu" if on_cpu() else "gpu",
        "versions": {"mlx-diffusion": mlx_diffusion.__version__, "mlx": version("mlx")},
        "plan": plan.as_dict(),
    }


def _content(header: dict[str, Any], runs: Runs, search: Search) -> dict[str, Any]:
    reference = runs.judged({}, runs.done({}))
    right, asked = Counter[str](), Counter[str]()
    for drawn, one in zip(runs.prompts, reference, strict=False):
        asked[drawn.family] += 1
        right[drawn.family] += one.right
    families = {family: [asked[family], right[family]] for family in sorted(asked)}
    return {
        **header,
        "allowances": {mode: asdict(allowance) for mode, allowance in ALLOWANCES.items()},
        "modes": {mode: dict(levers) for mode, levers in search.modes.items()},
        "seconds": round(runs.seconds),
        "reference": {
            "prompts": len(reference),
            "right": sum(one.right for one in reference),
            "positions": sum(one.positions for one in reference),
            "families": families,
        },
        "tests": [
            {
                **asdict(tested),
                **{name: round(getattr(tested, name), 5) for name in ("low", "high", "positions")},
                "levers": dict(tested.levers),
            }
            for tested in search.tested
        ],
    }


def _written(folder: Path, state: Path, checkpoint: str, data: bytes) -> Path:
    """The file, whole, in the checkpoint's folder or, where that may not be written, in the state folder."""
    file = folder / SPEED_FILE
    try:
        write_whole(file, data)
    except OSError:
        file = state / "speed" / f"{checkpoint}.json"
        make_state_folder(file.parent)
        write_whole(file, data, error=EvaluationError)
    return file
