"""Examinees in processes of their own: their errors arrive, and none of them outlives its parent."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FIXTURES

from mlx_diffusion.errors import CheckpointError, EvaluationError
from mlx_diffusion.measure.answers.engine import PromptBatch
from mlx_diffusion.measure.answers.workers import Worker, examinees_of, spread

REQUEST = PromptBatch([[2, 5]], [0], "reference", {"max_denoising_steps": 2}, 8)


def test_a_process_answers_as_this_one_does() -> None:
    with examinees_of(FIXTURES / "hub", 1) as here, examinees_of(FIXTURES / "hub", 2) as there:
        requests = [REQUEST] * 5
        answered = list(spread(lambda examinee, batch: examinee.answer(batch), requests, there))
        assert answered == 5 * [here[0].answer(REQUEST)]
        assert there[1].first_step([2, 5], 1) == here[0].first_step([2, 5], 1)


def test_what_goes_wrong_in_a_worker_is_raised_here(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"), examinees_of(folder, 2):
        pass
    with Worker() as worker:
        worker.process.kill()
        with pytest.raises(EvaluationError, match="ended with exit code -9"):
            worker.answer(REQUEST)


def test_a_worker_ends_with_its_parent() -> None:
    code = "from mlx_diffusion.measure.answers.workers import Worker; worker = Worker(); print(); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "\n"
        parent.kill()
        parent.communicate(timeout=30)  # the worker has the same standard error: it ends when both have
