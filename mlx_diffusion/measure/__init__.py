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
    from mlx_diffusion.measure.speed.benchmark import Benchmark
    from mlx_diffusion.measure.speed.cases import Case, all_cases
    from mlx_diffusion.measure.speed.peer import Peer, check_peer_installed
    from mlx_diffusion.measure.speed.plots import benchmark_plot
    from mlx_diffusion.measure.speed.results import BenchmarkResults
    from mlx_diffusion.measure.speed.synthetic import Blueprint, SyntheticTokenizer
    from mlx_diffusion.measure.speed.tables import benchmark_sections

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
    "speed.benchmark": ("Benchmark",),
    "speed.cases": ("Case", "all_cases"),
    "speed.peer": ("Peer", "check_peer_installed"),
    "speed.plots": ("benchmark_plot",),
    "speed.results": ("BenchmarkResults",),
    "speed.synthetic": ("Blueprint", "SyntheticTokenizer"),
    "speed.tables": ("benchmark_sections",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Benchmark",
    "BenchmarkResults",
    "Blueprint",
    "Case",
    "CostReport",
    "Evaluation",
    "EvaluationPlan",
    "EvaluationProgress",
    "Peer",
    "SyntheticTokenizer",
    "all_cases",
    "benchmark_plot",
    "benchmark_sections",
    "check_peer_installed",
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
