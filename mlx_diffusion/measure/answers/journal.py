"""The journal of a running evaluation: finished batches, from which the same command goes on after an interrupt.

The first line of the file says what is measured; each further line of JSON is a finished batch, or the first step of a
shuffle. A last line that was cut off is dropped. Only one process at a time may hold the file. Knows nothing of models.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.answers.evaluation import PromptOutcome, check_outcomes
from mlx_diffusion.measure.answers.one_step_bound import FirstStep, check_first_step
from mlx_diffusion.typed_json import from_json
from mlx_diffusion.whole_files import lock


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
        self.file = file
        self.batches: list[FinishedBatch] = []
        self.first_steps: dict[int, FirstStep] = {}
        try:
            for folder in reversed([file.parent, *file.parent.parents]):
                folder.mkdir(mode=0o700, exist_ok=True)  # a new one is the user's alone, and so are its parents
            if file.exists() and not file.is_file():
                raise OSError(errno.EINVAL, "it is no regular file")
            self._stream = file.open("a+b")
        except OSError as error:
            raise EvaluationError(f"{file} cannot be written ({error.strerror}); choose another --output") from None
        try:
            if not lock(self._stream.fileno()):
                warn(f"{file} cannot be locked on its disk; let no second run write there meanwhile")
        except BlockingIOError:
            raise EvaluationError(f"{file}: the same measurement is running already; wait for it, or end it") from None
        self._read(header)

    def _read(self, header: Mapping[str, Any]) -> None:
        self._stream.seek(0)
        content = self._stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [dict(json.loads(line)) for line in whole.splitlines()]
            if lines:
                check_same(lines[0], header, self.file)
            for line in lines[1:]:
                if "index" in line:
                    index, step = line.pop("index"), FirstStep(**line)
                    check_first_step(step)
                    if type(index) is not int or index < 0:
                        raise ValueError(index)
                    self.first_steps[index] = step
                else:
                    self.batches.append(self._checked(FinishedBatch.from_dict(line), header["plan"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise EvaluationError(f"{self.file} is no measurement that can be gone on with; remove it") from None
        self._stream.truncate(len(whole))
        if not lines:
            self._append(dict(header))

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
        self._append(batch.as_dict())

    def add_first_step(self, index: int, step: FirstStep) -> None:
        """Keep the first step of shuffle number `index`."""
        self.first_steps[index] = step
        self._append({"index": index, **step.as_dict()})

    def close(self) -> None:
        self._stream.close()

    def remove(self) -> None:
        """Delete the file: the evaluation is kept elsewhere."""
        self.file.unlink(missing_ok=True)
        self.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._stream.flush()


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], file: Path) -> None:
    """Refuse to go on with another evaluation: the `EvaluationError` names what differs."""
    if found == wanted:
        return
    pairs = [(found, wanted), (found.get("plan", {}), wanted["plan"])]
    differing = [key for a, b in pairs for key in b if key != "plan" and a.get(key) != b[key]]
    raise EvaluationError(
        f"{file} holds another measurement: {' and '.join(differing)} differ; give another --output, or remove it"
    )
