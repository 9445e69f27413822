"""A measurement from a checkpoint's name to its record: what is measured is settled, gone on with, kept.

Knows nothing of tables, plots and the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.device import on_cpu
from mlx_diffusion.errors import EvaluationError, OptionError
from mlx_diffusion.fit.opening import find_model, verdict_on
from mlx_diffusion.fit.verdict import Warn
from mlx_diffusion.measure.answers.identity import fingerprint
from mlx_diffusion.measure.answers.item import Item, digest
from mlx_diffusion.measure.answers.journal import Journal, check_same
from mlx_diffusion.measure.answers.own_suite import SUFFIX, read_suite
from mlx_diffusion.measure.answers.plan import EvaluationPlan
from mlx_diffusion.measure.answers.record import Evaluation
from mlx_diffusion.measure.answers.runs import EvaluationProgress, Pending, measure, record_of
from mlx_diffusion.measure.answers.suites import families_of, items_of
from mlx_diffusion.measure.answers.workers import default_workers, engines_of
from mlx_diffusion.tokenizer import load_tokenizer
from mlx_diffusion.whole_files import write_whole

DEFAULT_COUNT = 200
DEFAULT_MAX_TOKENS = 128  # the longest right answer of a bundled family, a story, has 108
DEFAULT_BATCH_SIZE = 1  # rows that have ended ride along, and on a CPU a larger batch is no faster


def items_from(suites: Sequence[str], count: int | None, seed: int) -> dict[str, list[Item]]:
    """The prompts of suites, families and files by family.

    `count` of each, 200 when it is None; of a suite's families and of a file all that there are, where there are fewer.
    Raises `OptionError`, also for a family that is named itself and has fewer than `count`.
    """
    files = [name for name in suites if name.endswith(SUFFIX)]
    found: dict[str, list[Item]] = {}
    for family in families_of(name for name in suites if name not in files):
        found[family] = items_of(family, DEFAULT_COUNT if count is None else count, seed)
        if count is not None and len(found[family]) < count and family in suites:
            raise OptionError(f"{family} has {len(found[family])} held-out prompts; lower --count {count}")
    for name in files:
        for family, items in read_suite(Path(name)).items():
            if family in found:
                raise OptionError(f"--suite {name}: there is a family {family!r} already; rename one of them")
            found[family] = items[:count]
    return found


def run(
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
) -> Evaluation:
    """Measure a checkpoint by a plan, going on where the same measurement was interrupted.

    The record goes into `output`; until it is whole, what is done lies beside it, or in the folder `state` where there
    is no output. An output that holds this very measurement is read, and nothing is run. Raises `EvaluationError` if
    it holds another, and `CheckpointError` where not all workers fit into memory; `warn` is told where they are tight.
    """
    found = find_model(model, warn)
    folder = found.folder
    header = header_of(str(model), found, plan)
    if output is not None and output.exists():
        record = Evaluation.read(output)
        check_same(record.header, header, output)
        return record
    if output is not None and not output.parent.is_dir():
        raise EvaluationError(f"{output}: its folder is not there; make it first")
    tokenizer = load_tokenizer(folder)
    beside = output.with_name(output.name + ".part") if output is not None else None
    journal = Journal(beside or _place(state, header), header)
    try:
        pending = Pending.of(plan, journal, first_steps)
        if len(pending):
            count = min(workers or default_workers(found), len(pending))
            verdict_on(str(model), found, copies=count).heed(warn)
            with engines_of(folder, count) as engines:
                measure(engines, tokenizer, plan, pending, journal, report)
        record = record_of(plan, header, journal)
        if output is not None:
            content = record.to_json(answers).encode("utf-8", "surrogatepass")
            write_whole(output, content, error=EvaluationError)
        journal.remove()
    finally:
        journal.close()
    return record


def _place(state: Path | None, header: dict[str, Any]) -> Path:
    folder = state or Path.cwd()
    return folder / f"evaluation-{digest(header)}.part"


def header_of(model: str, found: Checkpoint, plan: EvaluationPlan) -> dict[str, Any]:
    """What is measured: the head of its record."""
    return {
        "model": model,
        "checkpoint": fingerprint(found.folder),
        "canvas_length": found.config.canvas_length,
        "device": "cpu" if on_cpu() else "gpu",
        "plan": plan.as_dict(),
    }
