"""The bench's parts: cases, spreads, ratios, reach, counted primitives; tables, JSON and plots of recorded results."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from io import StringIO
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, config_dict
from rich.console import Console

from mlx_diffusion import load
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.formats import QuantSpec
from mlx_diffusion.cli.bench.command import print_sections
from mlx_diffusion.device import on_cpu
from mlx_diffusion.display import quantity
from mlx_diffusion.errors import OptionError
from mlx_diffusion.fit.cost import PassCost, encode_cost, step_cost
from mlx_diffusion.fit.products import EXPERTS, SOFT, Product
from mlx_diffusion.measure.speed import ceilings, primitives
from mlx_diffusion.measure.speed.cases import Case, all_cases, random_prompt
from mlx_diffusion.measure.speed.ceilings import Ceilings, Shape
from mlx_diffusion.measure.speed.plots import benchmark_plot
from mlx_diffusion.measure.speed.primitives import StepCounts
from mlx_diffusion.measure.speed.results import BenchmarkResults, CaseResult, PeerComparison, Reach, Setup, Work
from mlx_diffusion.measure.speed.runs import CaseRuns, RunFigures, Spread, library_runner, time_runs
from mlx_diffusion.measure.speed.tables import benchmark_sections, busy_warning
from mlx_diffusion.options import DEFAULTS, GenerationConfig

TINY = ModelConfig.from_dict(config_dict())
CASE = Case(10, 16, "reference")


def sample(**figures: Any) -> RunFigures:
    made = RunFigures(
        tokens_per_second=8.0, step_seconds=0.5, steps_per_token=0.25, positions_per_token=2.0, first_text_seconds=1.25,
        prompt_seconds=0.25, prompt_tokens_per_second=40.0, memory_bytes=1000, steps=4, tokens=16,
        seconds=2.0, cpu_seconds=1.9,
    )  # fmt: skip
    return replace(made, **figures)


def recorded() -> BenchmarkResults:
    """Two canvases of eight tokens in four steps, three times; the device as if all its products ran alike."""
    ours = CaseRuns(CASE, (sample(), sample(step_seconds=0.25, memory_bytes=900), sample(step_seconds=1.0)))
    theirs = CaseRuns(CASE, (sample(step_seconds=1.0), sample(step_seconds=1.0), sample(step_seconds=2.0)))
    work = Work(
        step=step_cost(TINY, lambda path: None, 10, 4),
        canvas=encode_cost(TINY, lambda path: None, 8, 10, 4),
        prompt=(encode_cost(TINY, lambda path: None, 10, 0, 4),),
    )
    shapes = {Shape.of(product): 1e7 for cost in (work.step, work.canvas) for product in cost.products}
    rates = Ceilings(dense_flops=1e7, copy_bytes=1e9, shapes=shapes)
    device = {"chip": "A chip", "cpus": 2, "device": "cpu", "packages": {"mlx": "1", "numpy": "2"}}
    setup = Setup("tiny", device, "float32", 3, 8, 1_234_567, 0.5, 2, 0)
    comparison = PeerComparison(ours, theirs, StepCounts(70, None, 1024), StepCounts(100, 4096, 4096))
    return BenchmarkResults(
        setup, rates, [CaseResult(ours, work, Reach.of(ours, work, rates))], "mlx-vlm 1", [comparison]
    )


def test_reach_is_work_over_time_over_rate() -> None:
    """Four steps and one finished canvas that is encoded, in two seconds; all at 10 MFLOP/s."""
    results = recorded()
    work, reached = results.cases[0].work, results.cases[0].reach
    flops = 4 * work.step.total_flops + work.canvas.total_flops
    assert reached.flops_per_second == flops / 2
    assert reached.share_of_dense == pytest.approx(flops / 2 / 1e7)
    assert reached.share_of_ceiling == pytest.approx(flops / 1e7 / 2), "every kernel has the dense product's rate here"
    assert reached.bound == "compute"
    assert reached.prompt_flops_per_second == work.prompt[0].total_flops / 0.25

    slow_memory = replace(results.ceilings, copy_bytes=1e4)
    bound = Reach.of(results.cases[0].measured, work, slow_memory)
    assert bound.bound == "memory"
    assert bound.share_of_ceiling == pytest.approx(bound.bytes_per_second / 1e4)


def test_ratios_are_taken_run_by_run() -> None:
    (comparison,) = recorded().comparisons
    assert comparison.ratio("step_seconds") == Spread(0.5, 0.25, 0.5)
    assert comparison.ratio("memory_bytes") == Spread(1.0, 0.9, 1.0)
    assert comparison.counted_ratios == {"primitives": 0.7, "vocabulary_bytes": None, "chunk_bytes": 0.25}


def test_the_json_holds_all_of_it() -> None:
    report = json.loads(json.dumps(recorded().as_dict()))
    (case,) = report["cases"]
    assert (report["model"], report["weight_bytes"], report["peer"]) == ("tiny", 1_234_567, "mlx-vlm 1")
    assert (case["prompt_tokens"], case["output_tokens"], case["mode"], case["runs"]) == (10, 16, "reference", 3)
    assert case["step_seconds"] == {"median": 0.5, "low": 0.25, "high": 1.0}
    assert case["step_cost"]["flops"] == sum(case["step_cost"]["flops_by_part"].values())
    assert 0 < case["encoded_token_cost"]["flops"] < case["step_cost"]["flops"] / 8, "no head, half a last layer"
    assert report["against"][0]["ratios"]["step_seconds"]["median"] == 0.5
    assert report["ceilings"]["dense_gflops"] == 0.01


def test_the_tables_say_it_to_people() -> None:
    console = Console(file=StringIO(), width=160)
    print_sections(benchmark_sections(recorded()), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for said in (
        "weights 1.23 MB",
        "2 denoising steps a canvas",
        "500 (250–1,000)",
        "mlx 1",
        "experts",
        "soft embedding",
    ):
        assert said in text, said
    assert "0.500 (0.250–0.500)" in text and "0.700" in text and "unknown" in text
    assert "numpy" not in text and "…" not in text
    narrow = Console(file=StringIO(), width=80)
    print_sections(benchmark_sections(recorded()), narrow)
    assert "…" not in narrow.file.getvalue(), "cells are wrapped, not cut"  # type: ignore[attr-defined]


def test_a_busy_machine_is_told() -> None:
    results = recorded()
    assert busy_warning(results) is None
    (case,) = results.cases
    slowed = replace(case, measured=CaseRuns(CASE, (sample(), sample(cpu_seconds=0.5))))
    told = busy_warning(replace(results, cases=[slowed]))
    assert told is not None and "25% to 95% of a core" in told
    on_gpu = replace(results.setup, device={**results.setup.device, "device": "gpu"})
    assert busy_warning(replace(results, cases=[slowed], setup=on_gpu)) is None


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_plot_is_a_picture(suffix: str) -> None:
    content = benchmark_plot(recorded(), suffix)
    if suffix == ".png":
        assert content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")
    else:
        assert ElementTree.fromstring(content).tag.endswith("svg")


def test_a_case_that_does_not_fit_the_context_is_refused() -> None:
    assert all_cases([100, 4080], [8, 16], ["reference"], TINY)[-1] == Case(4080, 16, "reference")
    with pytest.raises(OptionError, match=r"4,085 tokens .* need 4,101 positions, .* 4096; .*--context 4101"):
        all_cases([4085], [9], ["reference"], TINY)


def test_prompts_are_seeded_and_plain() -> None:
    prompt = random_prompt(TINY, 5000, 3, avoid=[40])
    assert prompt == random_prompt(TINY, 5000, 3, avoid=[40]) != random_prompt(TINY, 5000, 4, avoid=[40])
    assert set(prompt) == set(range(64)) - {0, 1, 2, 40}


def test_steps_fix_the_work() -> None:
    model, tokenizer = load(FIXTURES / "hub")
    length = model.config.canvas_length
    case = Case(9, 2 * length, "reference")
    run = library_runner(model, tokenizer, GenerationConfig(max_denoising_steps=3))
    first = run(case)
    assert (first.steps, first.tokens, first.positions_per_token) == (6, 2 * length, 3.0)
    assert first.memory_bytes > 0 and first.first_text_seconds is not None


def test_the_first_turn_does_not_count_and_runs_take_turns() -> None:
    order: list[str] = []

    def engine(name: str) -> Any:
        def run(case: Case) -> RunFigures:
            order.append(name)
            return sample(step_seconds=float(len(order)))

        return run

    ours, theirs = time_runs(CASE, [engine("own"), engine("peer")], 2, lambda text: None)
    assert order == ["own", "peer"] * 3
    assert ours.spread("step_seconds") == Spread(4.0, 3.0, 5.0)
    assert [one.step_seconds for one in theirs.runs] == [4.0, 6.0]


def test_a_figure_that_some_runs_lack() -> None:
    measured = CaseRuns(CASE, (sample(first_text_seconds=None), sample(first_text_seconds=2.0)))
    assert measured.spread("first_text_seconds") == Spread(2.0, 2.0, 2.0)
    assert CaseRuns(CASE, (sample(first_text_seconds=None),)).spread("first_text_seconds") is None


def test_primitives_of_a_graph() -> None:
    a, b = mx.ones((4, 4)), mx.zeros((4, 4))
    mx.eval(a, b)
    assert primitives.primitives([mx.tanh(a @ b), a]) == 2
    assert primitives.primitives([a]) == 0
    fused = mx.compile(lambda x: mx.exp(x) * x)
    assert primitives.primitives([fused(a)]) == 1


def test_bytes_in_wide_arrays_of_a_graph() -> None:
    """Of [2, 8] in float32, 64 bytes: tanh reads and writes one, the sum reads one; the view moves nothing."""
    a = mx.ones((2, 8))
    mx.eval(a)
    assert primitives.wide_bytes([mx.tanh(a).reshape(2, 1, 8).sum()], 2, {8}) == 3 * 64 - 64
    assert primitives.wide_bytes([mx.tanh(a).sum(axis=-1)], 2, {8}) == 3 * 64
    assert primitives.wide_bytes([mx.tanh(a)], 3, {8}) == primitives.wide_bytes([mx.tanh(a)], 2, {7, 9}) == 0


def test_a_step_is_counted_as_a_gpu_would_run_it() -> None:
    """Compiled, though this may be a CPU, with nothing left behind; the logits and the noise are in chunks alone."""
    model, _ = load(FIXTURES / "hub")
    config, compiled, cpu = model.config, model.compiled, on_cpu()
    step = primitives.library_step_counter(model, Case(9, 16, "reference"), GenerationConfig())
    found = primitives.count_step(step, config, CASE)
    assert on_cpu() == cpu and model.compiled == compiled
    uncompiled = primitives.uncompiled(lambda: step(lambda arrays: np.array([primitives.primitives(arrays)])))
    assert uncompiled is not None and 10 * config.num_hidden_layers < found.primitives < 0.9 * uncompiled[0]
    assert found.vocabulary_bytes == 0 and found.chunk_bytes is not None
    assert found.chunk_bytes > 2 * 4 * config.canvas_length * config.vocab_size


def test_ceilings_are_measured_once_a_shape_and_cut_where_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of 17 TFLOP is timed on a few of its rows; quantised, chosen and turned ones as they are."""
    for name, value in (("LEAST_SECONDS", 0.0), ("MOST_SECONDS", 1e-4), ("COPY_BYTES", 1 << 20)):
        monkeypatch.setattr(ceilings, name, value)
    affine = QuantSpec(32, 4, "affine")
    products = (
        Product("head", 64, 4096, 1 << 25, None, count=1),
        Product("projections", 4, 64, 32, affine),
        Product("projections", 4, 64, 32, affine),
        Product(EXPERTS, 16, 64, 64, affine, matrices=3.6),
        Product(SOFT, 4, 64, 32, affine, reads_weights=False),
    )
    cost = PassCost(4, products, attention_flops=100, sampler_flops=0, cache_bytes=0, item_bytes=4)
    told: list[str] = []
    found = ceilings.measure_ceilings([cost, cost], mx.float32, told.append)
    assert len(found.shapes) == 4 and len(told) == 5
    assert all(np.isfinite(rate) and rate > 0 for rate in (found.dense_flops, found.copy_bytes, *found.shapes.values()))
    even = replace(found, dense_flops=2e6, shapes=dict.fromkeys(found.shapes, 1e6))
    assert even.compute_seconds(cost) == pytest.approx((cost.total_flops - 100) / 1e6 + 100 / 2e6)


def test_settings_that_a_case_asks_for() -> None:
    free = GenerationConfig().resolve(CASE.options(GenerationConfig(seed=4)))
    assert asdict(free) == asdict(DEFAULTS) | {"max_tokens": 16, "seed": 4}
    fixed = GenerationConfig().resolve(CASE.options(GenerationConfig(max_denoising_steps=5)))
    assert fixed.max_denoising_steps == 5 and fixed.confidence_threshold < 1e-20


def test_quantities() -> None:
    assert [quantity(value, "B") for value in (0, 999, 1234, 5.5e9, 2e12)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "5.5 GB",
        "2 TB",
    ]
