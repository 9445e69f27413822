"""The costs of recipes in answers and in steps: a checkpoint as it is beside its conversions, on the same prompts.

Conversions go into a temporary folder. Beside right answers and denoising steps stands the divergence of the logits
from those of the source, at the first step and at converged canvases. Knows nothing of the terminal, nor of how a
checkpoint is converted, which is a function that the caller gives.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlx_diffusion.checkpoint.folder import Checkpoint
from mlx_diffusion.checkpoint.recipe_files import given_by_name
from mlx_diffusion.checkpoint.weight_files import weight_files
from mlx_diffusion.display import count_of, interval, per_cent, table
from mlx_diffusion.errors import OptionError
from mlx_diffusion.fit.opening import find_model
from mlx_diffusion.fit.verdict import Warn
from mlx_diffusion.measure.answers.batches import EvaluationProgress
from mlx_diffusion.measure.answers.comparison import Comparison, compare
from mlx_diffusion.measure.answers.evaluation import MOST_BYTES, Evaluation, damaged, read_results
from mlx_diffusion.measure.answers.figures import Figures, overall_figures
from mlx_diffusion.measure.answers.header import read_header
from mlx_diffusion.measure.answers.plan import EvaluationPlan
from mlx_diffusion.measure.answers.runner import evaluate
from mlx_diffusion.measure.answers.tables import comparison_text
from mlx_diffusion.measure.logit_errors import CONVERGED, RANDOM, LogitError, logit_errors
from mlx_diffusion.modes import DENOISING
from mlx_diffusion.regular_files import read_regular
from mlx_diffusion.typed_json import from_json

Convert = Callable[[Path, Path, str], object]  # from a folder into another, by the name of a recipe

SOURCE = "as it is"
LOGIT_PROMPTS = 24  # over all families
FORMAT = "mlx-diffusion recipes 1"
PAGE = """\
# What the converter's recipes cost

{model}, checkpoint `{checkpoint}`, computed in float32 as it is, and as each recipe converts it: {prompts} of
{families}, {way}, seed {seed}. Written by `mlx-diffusion eval --show {source} --markdown FILE`; do not edit.

{table}

*p*: McNemar's exact test of the answers and the sign test of the steps against the checkpoint as it is, on the same
prompts. *relative*: steps to converge, of the checkpoint's own. *KL*: divergence of the logits from the checkpoint's in
nats, mean over positions, of random canvases at the first step and of canvases that the conversion has denoised; *same
token*: positions of the latter with the same most likely token.
"""


@dataclass(frozen=True)
class RecipeCost:
    """The cost of one recipe, or of the checkpoint as it is."""

    recipe: str  # or SOURCE
    weight_bytes: int
    figures: Figures
    first_divergence: float  # of the logits from the source's, in nats, mean over positions of random canvases
    converged_divergence: float  # the same at canvases that the conversion has denoised
    equal: float  # share of positions there with the same most likely token

    @property
    def steps_per_canvas(self) -> float:
        """Denoising steps; 0 where none was taken, which no report has."""
        return self.figures.steps_per_canvas or 0.0


@dataclass(frozen=True)
class CostReport:
    """The costs of recipes, the source first, and the comparison of each recipe's answers with the source's.

    `header` is that of the source's evaluation.
    """

    header: Mapping[str, Any]
    costs: tuple[RecipeCost, ...]
    comparisons: tuple[tuple[str, Comparison], ...]  # by recipe

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **self.header,
            "costs": [asdict(cost) for cost in self.costs],
            "comparisons": [{"recipe": recipe, **found.as_dict()} for recipe, found in self.comparisons],
        }

    @classmethod
    def read(cls, file: Path) -> CostReport:
        """Read a file that holds what `as_dict` gave. Raises `EvaluationError`."""
        content = read_results(file, FORMAT)
        try:
            header = read_header(content)
            found = [from_json(RecipeCost, entry) for entry in content["costs"]]
            comparisons = [(entry["recipe"], Comparison.from_dict(entry)) for entry in content["comparisons"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(file, str(error)[:100]) from None
        if not found or not all(cost.steps_per_canvas > 0 for cost in found):
            raise damaged(file, "the source's own figures are missing")
        if [recipe for recipe, _ in comparisons] != [cost.recipe for cost in found[1:]]:
            raise damaged(file, "the comparisons are not those of the recipes")
        return cls(header, tuple(found), tuple(comparisons))

    def table(self, markdown: bool = False) -> str:
        """One row for each recipe."""
        base = self.costs[0].steps_per_canvas
        answers = {recipe: found.differences[0] for recipe, found in self.comparisons}
        rows = [
            [
                cost.recipe,
                f"{cost.weight_bytes / 1e6:.2f}",
                per_cent(cost.figures.accuracy),
                interval(cost.figures.low, cost.figures.high),
                f"{answers[cost.recipe].p:.2g}" if cost.recipe in answers else "",
                f"{cost.steps_per_canvas:.2f}",
                f"{cost.steps_per_canvas / base:.3f}",
                f"{answers[cost.recipe].p_steps:.2g}" if cost.recipe in answers else "",
                f"{cost.first_divergence:.5f}",
                f"{cost.converged_divergence:.5f}",
                f"{100 * cost.equal:.2f}",
            ]
            for cost in self.costs
        ]
        header = [
            "recipe", "weights MB", "right %", "95 % interval", "p", "steps/canvas", "relative", "p",
            "KL first step", "KL converged", "same token %",
        ]  # fmt: skip
        return table(header, rows, markdown)

    def text(self) -> str:
        """The table, and the comparison of every recipe with the source, family by family."""
        return "\n\n".join(
            [self.table(), *(f"{recipe}\n{comparison_text(found)}" for recipe, found in self.comparisons)]
        )

    def page(self, source: str) -> str:
        """The table as a Markdown page, made from the file `source`."""
        plan = self.header["plan"]
        return PAGE.format(
            model=self.header["model"],
            checkpoint=self.header["checkpoint"],
            prompts=count_of(self.costs[0].figures.prompts, "prompt"),
            families=count_of(len(plan["families"]), "family"),
            way=plan["ways"][0]["label"],
            seed=plan["seed"],
            source=source,
            table=self.table(markdown=True),
        )


def is_cost_report(file: Path) -> bool:
    """Whether a file of results is a cost report, by its beginning; false where it cannot be read."""
    try:
        return FORMAT.encode() in read_regular(file, MOST_BYTES)[:200]
    except OSError:
        return False


def measure_recipes(
    source: str,
    recipes: Sequence[str],
    plan: EvaluationPlan,
    convert: Convert,
    *,
    workers: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    warn: Warn = lambda line: None,
) -> CostReport:
    """Evaluate a checkpoint and its conversions by a plan of a single variant. Raises `OptionError`.

    recipes: names, or files whose recipes have names of their own.
    """
    if not recipes:
        raise OptionError("--recipes is empty; name some, as in 8bit,4bit,2bit")
    wanted = given_by_name(recipes)
    if len(plan.variants) != 1:
        raise OptionError("recipes are compared in one way of running; leave out further modes and sweeps")
    if plan.variants[0].mode.writes not in DENOISING:
        raise OptionError("recipes are compared in denoising steps too; leave out --mode, or give one that denoises")
    folder = find_model(source, warn).folder
    with tempfile.TemporaryDirectory() as temporary:
        base = _evaluated(SOURCE, folder, plan, Path(temporary), workers, report, warn)
        base = replace(base, header={**base.header, "model": source})
        found = [RecipeCost(SOURCE, _weight_bytes(folder), overall_figures(base, 0), 0.0, 0.0, 1.0)]
        comparisons = []
        for number, (name, given) in enumerate(wanted.items()):
            target = Path(temporary) / f"recipe-{number}"
            convert(folder, target, given)
            evaluation = _evaluated(
                name, target, plan, Path(temporary), workers, report
            )  # no larger than the source, so without a warning
            comparisons.append((name, compare(base, evaluation)[0]))
            first, converged = _divergences(folder, target, plan, name, report)
            found.append(
                RecipeCost(
                    name, _weight_bytes(target), overall_figures(evaluation, 0),
                    first.divergence, converged.divergence, converged.equal,
                )
            )  # fmt: skip
    return CostReport(base.header, tuple(found), tuple(comparisons))


def _evaluated(
    name: str,
    folder: Path,
    plan: EvaluationPlan,
    temporary: Path,
    workers: int | None,
    report: Callable[[str], None],
    warn: Warn = lambda line: None,
) -> Evaluation:
    def tell(progress: EvaluationProgress) -> None:
        report(f"{name}: {progress.done} of {count_of(progress.total, 'prompt')}, {progress.doing}")

    output = temporary / f"{folder.name}-answers.json"
    return evaluate(folder, plan, output=output, workers=workers, first_steps=False, report=tell, warn=warn)


def _divergences(
    folder: Path, target: Path, plan: EvaluationPlan, name: str, report: Callable[[str], None]
) -> tuple[LogitError, LogitError]:
    """The errors of the logits at random and at converged canvases, over some prompts of every family."""
    rounds = zip(*plan.items.values(), strict=False)
    items = [item for one in rounds for item in one if len(item.messages) == 1 and not item.thinking]
    texts = [item.messages[0]["content"] for item in items[:LOGIT_PROMPTS]]

    def tell(share: float, label: str) -> None:
        report(f"{name}: {share:4.0%}, {label}")

    errors, _ = logit_errors(Checkpoint.open(folder), Checkpoint.open(target), tell, texts)
    first, converged = (
        next(error for error in errors if error.canvases == kind and error.prompt is None)
        for kind in (RANDOM, CONVERGED)
    )
    return first, converged


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in weight_files(folder))
