"""The predicted speed of every way of writing on every chip of Apple's, and its errors against what others measured.

Knows nothing of the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.recipes import Recipe
from mlx_diffusion.display import count_of
from mlx_diffusion.fit.chips import CHIPS, Chip
from mlx_diffusion.fit.draft_width import WIDTHS, kept_tokens
from mlx_diffusion.fit.macs import gpu_bytes
from mlx_diffusion.fit.memory import Memory
from mlx_diffusion.fit.prediction import ModelShape, Pass, Prediction, Schedule, predict
from mlx_diffusion.fit.products import experts_touched
from mlx_diffusion.fit.reports import REPORTS
from mlx_diffusion.fit.schedules import autoregressive, denoising, speculative
from mlx_diffusion.measure.speed.recording import RecordedRun
from mlx_diffusion.measure.speed.tables import TitledTable
from mlx_diffusion.modes import Mode

STEP_WIDTHS = (8, 16, 32, 64, 128, 256)
DENOISED, ONE_A_PASS, DRAFTS, RECORDED = "denoised", "one a pass", "draft", "recorded"


@dataclass(frozen=True)
class Question:
    """A text whose speed is predicted: its model, its lengths, and how it is written."""

    name: str
    config: ModelConfig
    recipe: Recipe
    weight_bytes: int
    prompt: int
    tokens: int
    steps: int  # a canvas
    agreement: float  # share of drafted tokens that the encoder agrees with
    recorded: Mapping[Mode, RecordedRun] = field(default_factory=dict)  # by mode

    def schedules(self) -> dict[str, Schedule]:
        """The schedule of each way of writing."""
        ways = {
            DENOISED: denoising(self.prompt, self.tokens, self.config.canvas_length, self.steps),
            ONE_A_PASS: autoregressive(self.prompt, self.tokens),
        }
        for width in WIDTHS:
            kept = kept_tokens(width, self.agreement)
            ways[f"{DRAFTS} {width}"] = speculative(self.prompt, self.tokens, width, kept)
        return ways | {f"{RECORDED} {mode}": run.schedule for mode, run in self.recorded.items()}

    def shape(self) -> ModelShape:
        """The model; its routers choose as first recorded, where a layer of the recorded model has as many experts."""
        shape = ModelShape.of_recipe(self.config, self.recipe)
        sizes = (self.config.num_experts, self.config.top_k_experts)
        for run in self.recorded.values():
            if (run.experts, run.chosen) == sizes:
                return replace(shape, touched=run.touched())
        return shape


@dataclass(frozen=True)
class ChipPredictions:
    """The predictions for one chip by way of writing; empty where no Mac with it has the memory."""

    chip: Chip
    ways: Mapping[str, Prediction]

    @property
    def fastest(self) -> str | None:
        """The fastest way of those that can be chosen."""
        ways = {way: found.tokens_per_second for way, found in self.ways.items() if RECORDED not in way}
        return max(ways, key=lambda way: ways[way], default=None)

    def as_dict(self) -> dict[str, Any]:
        return {
            "chip": self.chip.name,
            "gpu_cores": self.chip.gpu_cores,
            "fits": bool(self.ways),
            "fastest": self.fastest,
            "ways": {
                way: {
                    "tokens_per_second": found.tokens_per_second,
                    "prompt_seconds": found.prompt.total,
                    "writing_seconds": found.writing.total,
                    "parts": asdict(found.writing),
                }
                for way, found in self.ways.items()
            },
        }


def predict_chips(question: Question, chips: Sequence[Chip] = CHIPS) -> list[ChipPredictions]:
    """Every way of writing on every chip."""
    shape, schedules = question.shape(), question.schedules()
    needed = Memory(question.config, question.weight_bytes).total_bytes(question.prompt + question.tokens)
    return [
        ChipPredictions(
            chip,
            {way: predict(schedule, shape, chip) for way, schedule in schedules.items()}
            if needed <= gpu_bytes(chip.memory_gib)
            else {},
        )
        for chip in chips
    ]


def predictions_dict(question: Question, found: Sequence[ChipPredictions]) -> dict[str, Any]:
    """Everything as one JSON object; `predicted` is always true."""
    shape = question.shape()
    return {
        "predicted": True,
        "model": question.name,
        "prompt_tokens": question.prompt,
        "output_tokens": question.tokens,
        "steps": question.steps,
        "agreement": question.agreement,
        "recorded": {mode: asdict(run) for mode, run in question.recorded.items()},
        "chips": [one.as_dict() | {"step_seconds": step_seconds(shape, one.chip, question.prompt)} for one in found],
        "reports": [
            {
                "chip": report.chip.label,
                "what": report.what,
                "measured_seconds": report.seconds,
                "predicted_seconds": report.predicted_seconds,
                "error": report.error,
                "fitted": report.fitted,
                "source": report.source,
            }
            for report in REPORTS
        ],
    }


def prediction_sections(question: Question, found: Sequence[ChipPredictions]) -> Iterator[TitledTable | str]:
    """What people are shown: the assumptions, the chips, and how far predictions were from reports."""
    canvas = question.config.canvas_length
    yield (
        f"Predicted, not measured: {question.name}, {count_of(question.tokens, 'token')} behind {question.prompt:,}. "
        f"Denoised in {count_of(question.steps, 'step')} a canvas of {canvas}; drafts from one step, of whose tokens "
        f"{question.agreement:.0%} agree, each behind an agreeing one."
    )
    ways = list(question.schedules())
    recorded = [way for way in ways if RECORDED in way]
    synthetic = [way for way in ways if RECORDED not in way]
    yield TitledTable(
        "predicted tokens a second",
        ("chip", *synthetic, "fastest"),
        [[one.chip.label, *_cells(one, synthetic), one.fastest or "too large"] for one in found],
    )
    if recorded:
        yield TitledTable(
            "predicted tokens a second, recorded",
            ("chip", *recorded),
            [[one.chip.label, *_cells(one, recorded)] for one in found],
        )
    for mode, run in question.recorded.items():
        yield experts_text(mode, run)
    yield report_table()


def _cells(one: ChipPredictions, ways: Sequence[str]) -> list[str]:
    return [f"{one.ways[way].tokens_per_second:.1f}" if one.ways else "–" for way in ways]


def step_seconds(shape: ModelShape, chip: Chip, prefix: int, *, float16: bool = False) -> dict[int, float]:
    """Predicted seconds of one denoising step over so many positions behind `prefix` encoded ones."""
    steps = {width: Schedule((), (Pass("denoise", width, prefix, width),), width) for width in STEP_WIDTHS}
    return {width: predict(step, shape, chip, float16=float16).writing.total for width, step in steps.items()}


def report_table() -> TitledTable:
    """Every report beside its prediction, with the error, or that a rate was taken from the report."""
    return TitledTable(
        "predicted and reported seconds",
        ("chip", "what was run", "reported", "predicted", "error"),
        [
            [
                report.chip.label,
                report.what,
                f"{report.seconds:.3g}",
                f"{report.predicted_seconds:.3g}",
                "fitted" if report.fitted else f"{report.error:+.0%}",
            ]
            for report in REPORTS
        ],
    )


def experts_text(mode: Mode, run: RecordedRun) -> str:
    """The experts that passes of the recorded run needed, beside those of a router without preferences."""
    needed = ", ".join(
        f"{count:.1f} ({experts_touched(run.experts, run.chosen, width):.1f}) for {width}"
        for width, count in run.distinct.items()
    )
    return (
        f"Recorded {mode}: {count_of(run.schedule.tokens, 'token')}. Distinct experts of {run.experts} a layer, by "
        f"neighbouring positions (in brackets: a router without preferences): {needed}."
    )
