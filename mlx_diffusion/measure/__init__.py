"""Measurements of a checkpoint: its right answers, its speed, and its distance from another one.

The names below are what the command uses. They are imported on first use, so that --help and wrong usage answer at
once. Tasks have a door of their own, `mlx_diffusion.measure.tasks`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_diffusion.measure.answers.batches import EvaluationProgress
    from mlx_diffusion.measure.answers.comparison import compare
    from mlx_diffusion.measure.answers.evaluation import Evaluation
    from mlx_diffusion.measure.answers.figures import figures_dict
    from mlx_diffusion.measure.answers.markdown_page import markdown_page
    from mlx_diffusion.measure.answers.plan import EvaluationPlan
    from mlx_diffusion.measure.answers.planning import make_plan
    from mlx_diffusion.measure.answers.plots import evaluation_plot
    from mlx_diffusion.measure.answers.recipe_costs import CostReport, is_cost_report, measure_recipes
    from mlx_diffusion.measure.answers.runner import evaluate
    from mlx_diffusion.measure.answers.tables import comparison_text, evaluation_text
    from mlx_diffusion.measure.plotting import check_plot

_HOMES = {
    "answers.batches": ("EvaluationProgress",),
    "answers.comparison": ("compare",),
    "answers.evaluation": ("Evaluation",),
    "answers.figures": ("figures_dict",),
    "answers.markdown_page": ("markdown_page",),
    "answers.plan": ("EvaluationPlan",),
    "answers.planning": ("make_plan",),
    "answers.plots": ("evaluation_plot",),
    "answers.recipe_costs": ("CostReport", "is_cost_report", "measure_recipes"),
    "answers.runner": ("evaluate",),
    "answers.tables": ("comparison_text", "evaluation_text"),
    "plotting": ("check_plot",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CostReport",
    "Evaluation",
    "EvaluationPlan",
    "EvaluationProgress",
    "check_plot",
    "compare",
    "comparison_text",
    "evaluate",
    "evaluation_plot",
    "evaluation_text",
    "figures_dict",
    "is_cost_report",
    "make_plan",
    "markdown_page",
    "measure_recipes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
