"""The journal of a running evaluation: finished batches, from which the same command goes on after an interrupt.

Each line of the file behind the first is a finished batch, or the first step of a shuffle. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.measure.answers.evaluation import PromptOutcome, check_outcomes
from mlx_diffusion.measure.answers.line_file import LineFile
from mlx_diffusion.measure.answers.one_step_bound import FirstStep, check_first_step
from mlx_diffusion.typed_json import from_json


@dataclass(frozen=True)
class FinishedBatch:
    """The outcomes of a batch: prompts of one family, from number `start` on, run in one variant."""

    variant: int
    family: str
    start: int
    seconds: float
    outcomes: tuple[PromptOutcome, ...]

    @property
    def key(self) -> tuple[int, str, int]:
        """The batch's place in the plan."""
        return self.variant, self.family, self.start

    def as_dict(self) -> dict[str, Any]:
        content = asdict(self)
        return {"way": content.pop("variant"), **content}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FinishedBatch:
        """The batch that `as_dict` described."""
        rest = {key: value for key, value in content.items() if key not in ("way", "outcomes")}
        return cls(content["way"], **rest, outcomes=tuple(from_json(PromptOutcome, one) for one in content["outcomes"]))


class Journal:
    """The open file: what it held already, and what is added to it."""

    def __init__(self, file: Path, header: Mapping[str, Any], warn: Callable[[str], None] = lambda line: None) -> None:
        """Open or begin the file of this evaluation. Raises `EvaluationError` if it holds another one.

        `warn` is told where the file cannot be locked.
        """
        self._lines = LineFile(file, header, warn)
        self.file = file
        self.batches: list[FinishedBatch] = []
        self.first_steps: dict[int, FirstStep] = {}
        try:
            for line in self._lines.lines:
                self._take(line, header["plan"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise self._lines.unusable() from None

    def _take(self, line: dict[str, Any], plan: Mapping[str, Any]) -> None:
        """A line that was read. Raises ValueError, TypeError, KeyError or AttributeError for one that cannot be."""
        if "index" not in line:
            self.batches.append(self._checked(FinishedBatch.from_dict(line), plan))
            return
        index, step = line.pop("index"), FirstStep(**line)
        check_first_step(step)
        if type(index) is not int or index < 0:
            raise ValueError(index)
        self.first_steps[index] = step

    def _checked(self, batch: FinishedBatch, plan: Mapping[str, Any]) -> FinishedBatch:
        """A batch that was read, if it is one of the plan, whole and not read before; else raises ValueError."""
        numbers = type(batch.variant) is int and type(batch.start) is int
        if (
            not numbers
            or not 0 <= batch.variant < len(plan["ways"])
            or batch.start not in range(0, plan["families"][batch.family]["prompts"], plan["batch_size"])
        ):
            raise ValueError("no batch of the plan")
        if any(same.key == batch.key for same in self.batches):
            raise ValueError("a batch twice")
        left = plan["families"][batch.family]["prompts"] - batch.start
        check_outcomes(batch.outcomes, batch.seconds, min(plan["batch_size"], left))
        return batch

    def add(self, batch: FinishedBatch) -> None:
        """Keep a finished batch."""
        self.batches.append(batch)
        self._lines.append(batch.as_dict())

    def add_first_step(self, index: int, step: FirstStep) -> None:
        """Keep the first step of shuffle number `index`."""
        self.first_steps[index] = step
        self._lines.append({"index": index, **step.as_dict()})

    def close(self) -> None:
        self._lines.close()

    def remove(self) -> None:
        """Delete the file: the evaluation is kept elsewhere."""
        self._lines.remove()
