"""Measurements of a checkpoint: its right answers, its speed, and its distance from another one.

The names below are what the command uses. They are imported on first use, so that --help and wrong usage answer at
once. Tasks have a door of their own, `mlx_diffusion.measure.tasks`.
"""

from typing import TYPE_CHECKING

from mlx_diffusion.lazy_names import lazy_names

if TYPE_CHECKING:
    from mlx_diffusion.measure.answers.batches import EvaluationProgress
    from mlx_diffusion.measure.answers.calibration import CalibrationPlan, calibrate
    from mlx_diffusion.measure.answers.comparison import compare
    from mlx_diffusion.measure.answers.evaluation import Evaluation
    from mlx_diffusion.measure.answers.figures import figures_dict
    from mlx_diffusion.measure.answers.markdown_page import markdown_page
    from mlx_diffusion.measure.answers.plan import EvaluationPlan, make_plan
    from mlx_diffusion.measure.answers.plots import evaluation_plot
    from mlx_diffusion.measure.answers.recipe_costs import CostReport, is_cost_report, measure_recipes
    from mlx_diffusion.measure.answers.runner import evaluate
    from mlx_diffusion.measure.answers.tables import comparison_text, evaluation_text
    from mlx_diffusion.measure.device.check import DeviceCheck, check_device
    from mlx_diffusion.measure.device.text import check_text
    from mlx_diffusion.measure.known.report import KnownReport, measure_known
    from mlx_diffusion.measure.plotting import check_plot
    from mlx_diffusion.measure.speed.benchmark import Benchmark
    from mlx_diffusion.measure.speed.cases import Case, all_cases
    from mlx_diffusion.measure.speed.clients import ServedLoad
    from mlx_diffusion.measure.speed.peer import Peer, check_peer_installed
    from mlx_diffusion.measure.speed.plots import benchmark_plot
    from mlx_diffusion.measure.speed.predictions import (
        Question,
        predict_chips,
        prediction_sections,
        predictions_dict,
    )
    from mlx_diffusion.measure.speed.recording import RecordedRun, record_run
    from mlx_diffusion.measure.speed.replay import Replayed, replay, replayed_sections, widened
    from mlx_diffusion.measure.speed.results import BenchmarkResults
    from mlx_diffusion.measure.speed.servers import check_prompts, own_server, peer_server
    from mlx_diffusion.measure.speed.synthetic import Blueprint, SyntheticTokenizer
    from mlx_diffusion.measure.speed.tables import TitledTable, benchmark_sections
    from mlx_diffusion.measure.tasks.knowledge import beyond_demo

__all__ = [
    "Benchmark",
    "BenchmarkResults",
    "Blueprint",
    "CalibrationPlan",
    "Case",
    "CostReport",
    "DeviceCheck",
    "Evaluation",
    "EvaluationPlan",
    "EvaluationProgress",
    "KnownReport",
    "Peer",
    "Question",
    "RecordedRun",
    "Replayed",
    "ServedLoad",
    "SyntheticTokenizer",
    "TitledTable",
    "all_cases",
    "benchmark_plot",
    "benchmark_sections",
    "beyond_demo",
    "calibrate",
    "check_device",
    "check_peer_installed",
    "check_plot",
    "check_prompts",
    "check_text",
    "compare",
    "comparison_text",
    "evaluate",
    "evaluation_plot",
    "evaluation_text",
    "figures_dict",
    "is_cost_report",
    "make_plan",
    "markdown_page",
    "measure_known",
    "measure_recipes",
    "own_server",
    "peer_server",
    "predict_chips",
    "prediction_sections",
    "predictions_dict",
    "record_run",
    "replay",
    "replayed_sections",
    "widened",
]

_HOMES = {
    "mlx_diffusion.measure.answers.batches": ("EvaluationProgress",),
    "mlx_diffusion.measure.answers.calibration": ("CalibrationPlan", "calibrate"),
    "mlx_diffusion.measure.answers.comparison": ("compare",),
    "mlx_diffusion.measure.answers.evaluation": ("Evaluation",),
    "mlx_diffusion.measure.answers.figures": ("figures_dict",),
    "mlx_diffusion.measure.answers.markdown_page": ("markdown_page",),
    "mlx_diffusion.measure.answers.plan": ("EvaluationPlan", "make_plan"),
    "mlx_diffusion.measure.answers.plots": ("evaluation_plot",),
    "mlx_diffusion.measure.answers.recipe_costs": ("CostReport", "is_cost_report", "measure_recipes"),
    "mlx_diffusion.measure.answers.runner": ("evaluate",),
    "mlx_diffusion.measure.answers.tables": ("comparison_text", "evaluation_text"),
    "mlx_diffusion.measure.device.check": ("DeviceCheck", "check_device"),
    "mlx_diffusion.measure.device.text": ("check_text",),
    "mlx_diffusion.measure.known.report": ("KnownReport", "measure_known"),
    "mlx_diffusion.measure.plotting": ("check_plot",),
    "mlx_diffusion.measure.speed.benchmark": ("Benchmark",),
    "mlx_diffusion.measure.speed.cases": ("Case", "all_cases"),
    "mlx_diffusion.measure.speed.clients": ("ServedLoad",),
    "mlx_diffusion.measure.speed.peer": ("Peer", "check_peer_installed"),
    "mlx_diffusion.measure.speed.plots": ("benchmark_plot",),
    "mlx_diffusion.measure.speed.predictions": (
        "Question",
        "predict_chips",
        "prediction_sections",
        "predictions_dict",
    ),
    "mlx_diffusion.measure.speed.recording": ("RecordedRun", "record_run"),
    "mlx_diffusion.measure.speed.replay": ("Replayed", "replay", "replayed_sections", "widened"),
    "mlx_diffusion.measure.speed.results": ("BenchmarkResults",),
    "mlx_diffusion.measure.speed.servers": ("check_prompts", "own_server", "peer_server"),
    "mlx_diffusion.measure.speed.synthetic": ("Blueprint", "SyntheticTokenizer"),
    "mlx_diffusion.measure.speed.tables": ("TitledTable", "benchmark_sections"),
    "mlx_diffusion.measure.tasks.knowledge": ("beyond_demo",),
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
