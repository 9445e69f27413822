"""Predicted times: kernels, passes and schedules worked out by hand, and the counts of a recorded run."""

from __future__ import annotations

import macs_page
import numpy as np
import pytest
from conftest import FIXTURES, config_dict, model_of

from mlx_diffusion import generate, stream_generate
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.published import CONFIG
from mlx_diffusion.checkpoint.recipes import RECIPES
from mlx_diffusion.engine.drafting import Cost, DraftMemory, counted
from mlx_diffusion.events import Finish, Stats
from mlx_diffusion.fit import draft_width
from mlx_diffusion.fit.chips import CHIPS, chips_named
from mlx_diffusion.fit.draft_width import best_width, kept_tokens, relative_costs
from mlx_diffusion.fit.kernels import READ_AGAIN, Rates
from mlx_diffusion.fit.prediction import LAUNCH_SECONDS, LAUNCHES, ModelShape, Pass, Schedule, pass_seconds, predict
from mlx_diffusion.fit.products import DENSE, EXPERTS, Product
from mlx_diffusion.fit.schedules import autoregressive, denoising, schedule_of, speculative
from mlx_diffusion.measure.speed.recording import RecordedRun, distinct_experts, record_run, recorded
from mlx_diffusion.modes import DENOISING, MODES, Mode
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.tokenizer import load_tokenizer

RATES = Rates(bandwidth=1e6, rows=1e6, tiles=4e6, tile=32, expert_tile=16)
# D 64, V 64, window 6; a sliding layer and a full one; E 4, A 2, F 32.
TINY = ModelConfig.from_dict(config_dict(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]))
PLAIN = ModelShape(TINY, lambda path: None)
REAL = ModelShape.of_recipe(ModelConfig.from_dict(CONFIG), RECIPES["4bit"])
(M4_PRO,) = chips_named("Apple M4 Pro")


@pytest.mark.parametrize(("rows", "arithmetic"), [(1, 1 * 2 / 1), (9, 9 * 2 / 1), (10, 32 * 2 / 4), (33, 64 * 2 / 4)])
def test_a_dense_product_is_computed_row_by_row_or_in_whole_tiles(rows: int, arithmetic: float) -> None:
    read, computed = RATES.seconds(Product(DENSE, rows, 1000, 1000, None), 2)
    assert (read, computed) == pytest.approx((2.0, arithmetic))


def test_experts_are_computed_row_by_row_until_there_are_enough_rows() -> None:
    few, read_once = Product(EXPERTS, 30, 1000, 1000, None, matrices=10, held=8), 10 * 2
    assert RATES.seconds(few, 2) == pytest.approx((read_once * (1 + READ_AGAIN * 2), 30 * 2))
    # 32 rows fill two tiles; each of the 9 edges between ten experts has its tile gone through once more.
    many = Product(EXPERTS, 32, 1000, 1000, None, matrices=10, held=8)
    assert RATES.seconds(many, 2) == pytest.approx((read_once, (2 + 9) * 16 * 2 / 4))


def test_a_pass_takes_the_longer_of_reading_and_arithmetic() -> None:
    """One token behind three, whose logits are asked for: all is read once, and nothing is computed meanwhile."""
    cost = PLAIN.cost(Pass("decode", 1, 3, 1))
    idle = Rates(bandwidth=1e3, rows=1e30, tiles=1e30, tile=32, expert_tile=16)
    seconds = pass_seconds(cost, idle, 0.5)
    assert seconds.weights == pytest.approx((cost.total_bytes - cost.cache_bytes) / 1e3, rel=1e-3)
    assert (seconds.keys_and_values, seconds.launches) == (cost.cache_bytes / 1e3, 0.5)
    assert seconds.arithmetic < 1e-20
    assert seconds.total == seconds.weights + seconds.keys_and_values + seconds.arithmetic + 0.5
    busy = Rates(bandwidth=1e30, rows=1e3, tiles=1e30, tile=32, expert_tile=16)
    assert pass_seconds(cost, busy, 0.0).total == pytest.approx(cost.total_flops / 1e3)


def test_only_what_a_pass_needs_is_counted() -> None:
    """A draft has no soft signal, an encoded canvas no logits; a router that is known chooses its own number."""
    draft, step = PLAIN.cost(Pass("draft", 8, 5, 8)), PLAIN.cost(Pass("denoise", 8, 5, 8))
    assert step.total_flops - draft.total_flops == 2 * 8 * 64 * 64
    encoded, decoded = PLAIN.cost(Pass("encode", 8, 5, 0)), PLAIN.cost(Pass("decode", 8, 5, 8))
    assert "head" not in encoded.nbytes() and decoded.flops()["head"] == 2 * 8 * 64 * 64
    assert decoded.nbytes()["head"] == step.nbytes()["head"]
    picky = ModelShape(TINY, lambda path: None, touched=lambda positions: positions / 4)
    assert picky.cost(Pass("draft", 8, 5, 8)).nbytes()[EXPERTS] == 2 * 2 * 2 * (64 * 64 + 32 * 64)


def test_schedules_by_hand() -> None:
    canvases = denoising(100, 20, 8, 3)
    assert canvases.prompt == (Pass("encode", 100, 0, 0),) and canvases.tokens == 20
    assert canvases.writing[:3] == (
        Pass("draft", 8, 100, 8),
        Pass("denoise", 8, 100, 8, 2),
        Pass("encode", 8, 100, 0),
    )
    assert len(canvases.writing) == 8 and canvases.writing[-1] == Pass("denoise", 8, 116, 8, 2)
    assert autoregressive(100, 20).writing == (Pass("decode", 1, 110, 1, 20),)
    assert speculative(100, 20, 16, 4.0, drafts=2).writing == (
        Pass("draft", 16, 110, 16, 5),
        Pass("denoise", 16, 110, 16, 5),
        Pass("decode", 16, 110, 16, 5),
    )
    assert autoregressive(5000, 1).prompt == (
        Pass("encode", 2048, 0, 0), Pass("encode", 2048, 2048, 0), Pass("encode", 904, 4096, 0)
    )  # fmt: skip


def test_a_recorded_run_gives_its_own_schedule() -> None:
    model, tokenizer = model_of(FIXTURES / "hub"), load_tokenizer(FIXTURES / "hub")
    wishes = GenerationConfig(max_tokens=20, max_denoising_steps=3, eos_token_id=(), prefill_step_size=2)
    *_, end = stream_generate(model, tokenizer, [5, 6, 7], config=wishes)
    assert isinstance(end, Finish)
    stats, schedule = end.stats, record_run(model, tokenizer, [5, 6, 7], wishes).schedule
    assert schedule.prompt == (Pass("encode", 2, 0, 0), Pass("encode", 1, 2, 0))
    assert schedule.tokens == stats.generated_tokens == 20
    denoised = [one for one in schedule.writing if one.kind in ("draft", "denoise")]
    encoded = [one for one in schedule.prompt + schedule.writing if one.kind == "encode"]
    assert {one.kind: one.times for one in denoised}["draft"] == stats.blocks
    assert sum(one.times for one in denoised) == stats.denoising_steps
    assert sum(one.positions * one.times for one in denoised) == stats.decoder_positions
    assert sum(one.positions * one.times for one in encoded) == stats.encoder_positions


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_recorded_pass_by_pass(mode: Mode) -> None:
    model, tokenizer = model_of(FIXTURES / "hub"), load_tokenizer(FIXTURES / "hub")
    wishes = GenerationConfig(max_tokens=12, mode=mode, eos_token_id=(), prefill_step_size=2)
    *_, end = stream_generate(model, tokenizer, [5, 6, 7], config=wishes)
    assert isinstance(end, Finish)
    schedule = record_run(model, tokenizer, [5, 6, 7], wishes).schedule
    passes = schedule.prompt + schedule.writing
    assert sum(one.times for one in schedule.writing) == end.stats.passes
    assert sum(one.positions * one.times for one in passes) == (
        end.stats.encoder_positions + end.stats.decoder_positions
    )
    assert {one.kind for one in passes} == {
        **dict.fromkeys(DENOISING, frozenset({"encode", "draft", "denoise"})),
        "autoregressive": {"encode", "decode"},
        "speculative": {"encode", "decode", "draft"},
    }[mode]


def test_passes_that_are_alike_are_counted_together() -> None:
    stats = Stats(4, 0, 9, 2, 3, 24, 12, 0.0, 0.0, None, 0)
    prompt, canvases = Pass("encode", 4, 0, 0), [Pass("draft", 8, 4, 8), Pass("draft", 8, 12, 8)]
    found = schedule_of([prompt, canvases[0], Pass("encode", 8, 4, 0), canvases[1]], stats)
    assert found == Schedule((prompt,), (Pass("draft", 8, 8, 8, 2), Pass("encode", 8, 4, 0)), 9)


def test_distinct_experts_of_neighbours_by_hand() -> None:
    """Pairs of positions, and all four: {0,1,2} and {1,3}, {0,1,2,3}; a pass of one position has no pair."""
    found = distinct_experts([np.array([[0, 1], [0, 2], [3, 1], [1, 3]]), np.array([[2, 0]])])
    assert found == {1: 2.0, 2: 2.5, 4: 4.0}
    assert RecordedRun(Schedule((), (), 1), 4, 2, found).touched()(3) == pytest.approx(3.25)


def test_recording_changes_nothing() -> None:
    model, tokenizer = model_of(FIXTURES / "hub"), load_tokenizer(FIXTURES / "hub")
    wishes = GenerationConfig(max_tokens=16, max_denoising_steps=2, seed=3, eos_token_id=())
    routers = [layer.router for layer in model.layers]
    run = record_run(model, tokenizer, [5, 6, 7], wishes)
    assert [layer.router for layer in model.layers] == routers
    assert "encode" not in vars(model) and "survey" not in vars(model) and "encode" not in model
    texts = [generate(model, tokenizer, [5, 6, 7], config=wishes)]
    with recorded(model):
        texts.append(generate(model, tokenizer, [5, 6, 7], config=wishes))
    assert texts[0] == texts[1]
    assert run.distinct[1] == run.chosen == model.config.top_k_experts
    assert max(run.distinct) == model.config.canvas_length and max(run.distinct.values()) <= run.experts


def test_a_schedule_takes_its_passes_and_their_launches() -> None:
    one = predict(Schedule((), (Pass("decode", 1, 9, 1),), 1), PLAIN, M4_PRO)
    ten = predict(Schedule((Pass("encode", 9, 0, 0),), (Pass("decode", 1, 9, 1, 10),), 10), PLAIN, M4_PRO)
    assert ten.writing.total == pytest.approx(10 * one.writing.total) and ten.prompt.total > 0
    assert ten.tokens_per_second == pytest.approx(1 / one.writing.total)
    assert one.writing.launches == pytest.approx(2 * LAUNCHES * LAUNCH_SECONDS[4])


def test_the_published_model_reads_no_faster_than_memory_allows() -> None:
    """One token of the real model in 4 bits reads 3.7 GB with 1,000 tokens before it; M4 Pro has 273 GB/s."""
    fastest = 273e9 / 3.69e9
    assert 0.6 * fastest < predict(autoregressive(1000, 16), REAL, M4_PRO).tokens_per_second < 0.78 * fastest


def test_chips_by_the_name_that_macos_gives() -> None:
    assert [chip.gpu_cores for chip in chips_named("Apple M3 Max")] == [30, 40]
    assert chips_named("Apple M99") == chips_named("AMD EPYC") == chips_named(None) == ()
    assert len({chip.label for chip in CHIPS}) == len(CHIPS) and "M3 Max (30)" in {chip.label for chip in CHIPS}
    assert {chip.generation for chip in CHIPS} == set(LAUNCH_SECONDS)
    assert {chip.name for chip in CHIPS if chip.matrix_flops} == {"M5", "M5 Pro", "M5 Max"}


def test_bfloat16_costs_more_where_it_is_emulated() -> None:
    (m1,), step = chips_named("M1"), Schedule((), (Pass("denoise", 256, 1000, 256),), 256)
    assert predict(step, REAL, m1).writing.total > 1.5 * predict(step, REAL, m1, float16=True).writing.total
    assert predict(step, REAL, M4_PRO) == predict(step, REAL, M4_PRO, float16=True)


def test_the_page_shows_what_is_predicted() -> None:
    page = macs_page.PAGE.read_text("utf-8")
    assert macs_page.with_tables(page) == page, "make macs"


def test_the_width_of_drafts_follows_from_what_a_round_keeps() -> None:
    assert kept_tokens(3, 0.5) == pytest.approx(1 + 0.5 + 0.25) and kept_tokens(4, 1) == 4
    assert best_width(REAL, M4_PRO, {8: 1.0, 16: 1.0}) == 0, "rounds that keep one token are slower than one token"
    assert best_width(REAL, M4_PRO, {8: 8.0, 16: 1.0}) == 8
    assert best_width(REAL, M4_PRO, {8: 8.0, 16: 16.0, 64: 64.0}) == 64


def test_wider_passes_cost_more_but_less_than_their_positions() -> None:
    costs = relative_costs(REAL, M4_PRO)
    assert costs(1) == 1 and 1 < costs(4) < costs(8) < costs(32) < 32
    assert costs(32, unread=31) < costs(32), "the head reads the rest alone"


def test_what_is_predicted_decides_how_much_is_drafted() -> None:
    """Where wide passes cost what they hold, nothing is drafted; the text is the same."""
    model, tokenizer = model_of(FIXTURES / "hub"), load_tokenizer(FIXTURES / "hub")
    wishes = GenerationConfig(max_tokens=12, mode="speculative", eos_token_id=())

    def per_position(positions: int, unread: int = 0) -> float:
        return float(positions)

    def end(cost: Cost) -> tuple[str, int]:
        *events, last = stream_generate(model, tokenizer, [5, 6, 7], config=wishes, drafts=DraftMemory(cost))
        assert isinstance(last, Finish)
        return "".join(event.text for event in events), last.stats.denoising_steps

    (text, drafted), (same, dear) = end(counted), end(per_position)
    assert text == same and drafted > dear == 0


def test_costs_here_are_those_of_this_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(FIXTURES / "hub")
    monkeypatch.setattr(draft_width, "chip_name", lambda: "Apple M4 Pro")
    monkeypatch.setattr(draft_width, "on_cpu", lambda: True)
    assert draft_width.costs_here(model) is counted
    monkeypatch.setattr(draft_width, "on_cpu", lambda: False)
    here = draft_width.costs_here(model)
    assert here(9) == relative_costs(ModelShape(model.config, lambda path: None), M4_PRO)(9)
    monkeypatch.setattr(draft_width, "chip_name", lambda: "AMD EPYC")
    assert draft_width.costs_here(model) is counted
