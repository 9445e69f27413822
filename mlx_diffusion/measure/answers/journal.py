"""A measurement while it goes on: finished batches, appended as they come, so that the same command goes on from them.

One line of JSON a batch behind one that says what is measured; a last line that was cut off counts as not written. The
file is held by one process at a time. Knows nothing of models.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.measure.answers.record import PromptOutcome
from mlx_diffusion.measure.answers.theory import FirstStep


@dataclass(frozen=True)
class FinishedBatch:
    """A finished part of a measurement: prompts from `start` on of one family, run in one way."""

    way: int
    family: str
    start: int
    seconds: float
    outcomes: tuple[PromptOutcome, ...]


class Journal:
    """The file, opened: what it holds already, and more to come."""

    def __init__(self, file: Path, header: Mapping[str, Any]) -> None:
        """Open or begin the file for this measurement. Raises `EvaluationError` if it holds another one."""
        self.file = file
        self.batches: list[FinishedBatch] = []
        self.first_steps: dict[int, FirstStep] = {}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = file.open("a+b")
        except OSError as error:
            raise EvaluationError(f"{file} cannot be written ({error.strerror}); choose another --output") from None
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
                    self.first_steps[line.pop("index")] = FirstStep(**line)
                else:
                    outcomes = tuple(PromptOutcome(**outcome) for outcome in line.pop("outcomes"))
                    self.batches.append(FinishedBatch(**line, outcomes=outcomes))
        except (ValueError, TypeError, KeyError):
            raise EvaluationError(f"{self.file} is no measurement that can be gone on with; remove it") from None
        self._stream.truncate(len(whole))
        if not lines:
            self._append(dict(header))

    def add(self, batch: FinishedBatch) -> None:
        """Keep a finished batch."""
        self.batches.append(batch)
        self._append(asdict(batch))

    def add_first_step(self, index: int, step: FirstStep) -> None:
        """Keep what the first step made of the shuffle of that index."""
        self.first_steps[index] = step
        self._append({"index": index, **step.as_dict()})

    def close(self) -> None:
        self._stream.close()

    def remove(self) -> None:
        """The measurement is kept elsewhere."""
        self.file.unlink(missing_ok=True)
        self.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._stream.flush()


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], file: Path) -> None:
    """Refuse to go on with another measurement. Raises `EvaluationError` that names what differs."""
    if found == wanted:
        return
    pairs = [(found, wanted), (found.get("plan", {}), wanted["plan"])]
    differing = [key for a, b in pairs for key in b if key != "plan" and a.get(key) != b[key]]
    raise EvaluationError(
        f"{file} holds another measurement: {' and '.join(differing)} differ; give another --output, or remove it"
    )
