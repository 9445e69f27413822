"""A whole evaluation, from the name of a checkpoint to the file of results.

Runs a plan or goes on with it, and keeps the result. Knows nothing of tables, plots and the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.fingerprint import fingerprint
from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.device import on_cpu
from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.fit.opening import find_model, verdict_on
from mlx_diffusion.fit.verdict import Warn
from mlx_diffusion.measure.answers.batches import EvaluationProgress, Pending, run_pending, whole_evaluation
from mlx_diffusion.measure.answers.evaluation import Evaluation
from mlx_diffusion.measure.answers.item import digest
from mlx_diffusion.measure.answers.journal import Journal
from mlx_diffusion.measure.answers.line_file import check_same
from mlx_diffusion.measure.answers.plan import EvaluationPlan
from mlx_diffusion.measure.answers.workers import default_workers, examinees_of
from mlx_diffusion.tokenizer import load_tokenizer
from mlx_diffusion.whole_files import write_whole


def evaluate(
    model: str | Path,
    plan: EvaluationPlan,
    *,
    output: Path | None = None,
    state: Path | None = None,
    answers: bool = False,
    workers: int | None = None,
    first_steps: bool = True,
    report: Callable[[EvaluationProgress], None] = lambda progress: None,
    warn: Warn = lambda line: None,
    revision: str | None = None,
) -> Evaluation:
    """Evaluate a checkpoint by a plan, or go on with the same evaluation where it was interrupted.

    The result goes into the file `output`, if there is one. Until it is whole, a journal lies beside it, or in the
    folder `state` where there is no output. If `output` holds this very evaluation already, it is read and nothing is
    run. Raises `EvaluationError` if it holds another, and `CheckpointError` where not all workers fit into memory;
    `warn` is told where they fit tightly. `revision` is of a model that is a Hub id.
    """
    found = find_model(model, warn, revision)
    header = header_of(str(model), found, plan)
    if output is not None and output.exists():
        evaluation = Evaluation.read(output)
        check_same(evaluation.header, header, output)
        return evaluation
    if output is not None and not output.parent.is_dir():
        raise EvaluationError(f"{output}: its folder is not there; make it first")
    tokenizer = load_tokenizer(found.folder)
    beside = output.with_name(output.name + ".part") if output is not None else None
    journal = Journal(beside or _journal_file(state, header), header, warn)
    try:
        pending = Pending.of(plan, journal, first_steps)
        if len(pending):
            count = min(workers or default_workers(found), len(pending))
            verdict_on(str(model), found, copies=count).heed(warn)
            with examinees_of(found.folder, count) as examinees:
                run_pending(examinees, tokenizer, plan, pending, journal, report)
            if fingerprint(found.folder) != header["checkpoint"]:
                journal.remove()
                raise EvaluationError(f"{model}: its files changed while it was evaluated; evaluate it again")
        evaluation = whole_evaluation(plan, header, journal)
        if output is not None:
            content = evaluation.to_json(answers).encode("utf-8", "surrogatepass")
            write_whole(output, content, error=EvaluationError)
        journal.remove()
    finally:
        journal.close()
    return evaluation


def _journal_file(state: Path | None, header: dict[str, Any]) -> Path:
    folder = state or Path.cwd()
    return folder / f"evaluation-{digest(header)}.part"


def header_of(model: str, found: Checkpoint, plan: EvaluationPlan) -> dict[str, Any]:
    """The head of the file of results, which says what is evaluated."""
    return {
        "model": model,
        "checkpoint": fingerprint(found.folder),
        "canvas_length": found.config.canvas_length,
        "device": "cpu" if on_cpu() else "gpu",
        "plan": plan.as_dict(),
    }
