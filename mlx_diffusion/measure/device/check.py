"""The check of a device: all trials of a model's kernels within a time, and what they say about its settings.

Knows nothing of single kernels, or of the terminal.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx

from mlx_diffusion.checkpoint.config import FULL, SLIDING, ModelConfig
from mlx_diffusion.checkpoint.published import CONFIG, REPO_ID
from mlx_diffusion.checkpoint.recipes import DEFAULT_RECIPE, recipe_named
from mlx_diffusion.checkpoint.tensor_names import DECODER
from mlx_diffusion.device import activation_dtype, on_cpu
from mlx_diffusion.display import count_of
from mlx_diffusion.fit.products import Formats
from mlx_diffusion.measure.device.attention import AttentionTrials
from mlx_diffusion.measure.device.buffers import BufferTrial, buffer_trials
from mlx_diffusion.measure.device.experts import ExpertTrials
from mlx_diffusion.measure.device.products import ProductTrials, shapes_of
from mlx_diffusion.measure.device.survey import SurveyTrials
from mlx_diffusion.measure.device.trial import Distance, Extent, KernelTrial, KernelTrials, TrialSetup
from mlx_diffusion.measure.device.verdict import SettingsVerdict, verdict
from mlx_diffusion.processes import computing
from mlx_diffusion.tuning import DTYPES, Kept

SECONDS = 60.0  # in all, about
EACH = 0.06  # seconds of a trial
LONGEST = 1.5  # seconds of a trial on a CPU; what would take longer is left out
CPU_FLOPS = 6e7  # of a run on a CPU, about; shapes are cut to it
PROBE = (16, 1024, 256)  # a product from which a CPU's rate in a type is told


@dataclass(frozen=True)
class DeviceCheck:
    """What a check has found."""

    model: str
    recipe: str
    dtype: str  # of the residual stream
    trials: tuple[KernelTrial, ...]
    buffers: tuple[BufferTrial, ...]
    verdict: SettingsVerdict
    seconds: float

    @property
    def kept(self) -> Kept:
        """The settings that are best, for this device."""
        return Kept.here(self.verdict.tuning)

    def as_dict(self) -> dict[str, Any]:
        """The check for JSON, which has no infinity: an error beyond all bounds is null."""
        trials = [
            {
                **asdict(trial.setup),
                **_distance(trial.distance),
                "seconds": trial.seconds,
                "flops_per_second": trial.rate,
                "cut": trial.cut,
                "problem": trial.problem,
            }
            for trial in self.trials
        ]
        return {
            "model": self.model,
            "recipe": self.recipe,
            "dtype": self.dtype,
            "seconds": self.seconds,
            "trials": trials,
            "buffers": [asdict(one) for one in self.buffers],
            "best": asdict(self.kept),
            "reasons": list(self.verdict.reasons),
            "undecided": list(self.verdict.undecided),
        }


@computing()
def check_device(
    recipe: str = DEFAULT_RECIPE,
    *,
    config: ModelConfig | None = None,
    seconds: float = SECONDS,
    report: Callable[[float, str], None] = lambda share, label: None,
) -> DeviceCheck:
    """Try every kernel of the published model in a recipe, or of a model with this config.

    `report` is told the share that is done, and what is tried. Raises OptionError for an unknown recipe.
    """
    began, own = time.monotonic(), recipe_named(recipe)
    model = REPO_ID if config is None else "a model with the given config"
    config = config or ModelConfig.from_dict(CONFIG, where="the published config.json")
    dtype = str(activation_dtype()).removeprefix("mlx.core.")
    kinds = list(_trials(config, lambda path: own.spec(DECODER + path), dtype))
    rates = {name: _cpu_rate(DTYPES[name]) if on_cpu() else math.inf for name in DTYPES}
    made: list[KernelTrial] = []
    total = sum(len(one.setups()) for one in kinds)
    while kinds:
        now = time.monotonic()
        until = now + max(began + seconds - now, 0.0) / len(kinds)
        one = kinds.pop(0)
        for number, setup in enumerate(one.setups()):
            report(len(made) / total, f"{setup.part}, {setup.dtype}, {count_of(setup.width, 'position')}")
            left = until - time.monotonic() if number else math.inf
            made.append(_trial(one, setup, rates[setup.dtype], left))
        del one
        gc.collect()
        mx.clear_cache()
    buffers = buffer_trials()
    found = verdict(made, buffers, dtype, on_cpu=on_cpu())
    return DeviceCheck(model, recipe, dtype, tuple(made), buffers, found, time.monotonic() - began)


def _trial(trials: KernelTrials, setup: TrialSetup, rate: float, left: float) -> KernelTrial:
    expected = 2 * trials.flops(setup) / rate
    if expected > LONGEST:
        return KernelTrial(setup, problem="it would take long here")
    if left < expected:
        return KernelTrial(setup, problem="time was up")
    return trials.run(setup, min(EACH, left))


def _trials(config: ModelConfig, formats: Formats, dtype: str) -> Iterator[KernelTrials]:
    """Those that decide something come first."""
    extent = Extent(CPU_FLOPS if on_cpu() else math.inf)
    dtypes = tuple(dict.fromkeys([dtype, "float16", "bfloat16"]))
    specs = [formats(f"layers.0.experts.{name}") for name in ("gate_up_proj", "down_proj")]
    yield ExpertTrials(config, specs, extent, dtypes)
    for kind in (SLIDING, FULL):
        if kind in config.layer_types:
            yield AttentionTrials(config, kind, extent, dtypes)
    for shape in shapes_of(config, formats):
        yield ProductTrials(shape, extent, dtypes, config.top_k_experts)
    yield SurveyTrials(config, formats("embed_tokens"), extent, dtypes)


def _cpu_rate(dtype: mx.Dtype) -> float:
    """Operations a second of a product in 8 bits; the machine may be at other work, so the best of two."""
    rows, inner, outer = PROBE
    packed = mx.quantize(mx.ones((outer, inner), dtype=dtype), 64, 8)
    x = mx.ones((rows, inner), dtype=dtype)
    mx.eval(packed, x)
    best = math.inf
    for _ in range(2):
        started = time.perf_counter()
        mx.eval(mx.quantized_matmul(x, *packed, True, 64, 8))
        best = min(best, time.perf_counter() - started)
    return 2 * rows * inner * outer / best


def _distance(found: Distance | None) -> dict[str, Any]:
    if found is None:
        return {"error": None, "worst": None, "note": ""}
    numbers = {"error": found.error, "worst": found.worst}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()} | {"note": found.note}
