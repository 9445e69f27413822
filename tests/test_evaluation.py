"""An evaluation: the same however it is run, gone on with after an interrupt, and counted right."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES

from mlx_diffusion import generate, load, stream_generate
from mlx_diffusion.checkpoint.fingerprint import fingerprint
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.engine.noise import KeyedNoise
from mlx_diffusion.engine.rules import REFERENCE, Canvas, Confidence, Policy, Rules
from mlx_diffusion.errors import EvaluationError, OptionError
from mlx_diffusion.events import Finish
from mlx_diffusion.measure.answers.batches import EvaluationProgress, run_batch
from mlx_diffusion.measure.answers.engine import Examinee
from mlx_diffusion.measure.answers.evaluation import Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.item import Item
from mlx_diffusion.measure.answers.modes import MeasuredMode, RandomAcceptance
from mlx_diffusion.measure.answers.plan import EvaluationPlan, parse_sweep, seed_of, variants_of
from mlx_diffusion.measure.answers.runner import evaluate
from mlx_diffusion.measure.answers.suites import draw_items
from mlx_diffusion.measure.passes import count_drafted, count_passes, count_positions
from mlx_diffusion.modes import DENOISING
from mlx_diffusion.network.head import Survey
from mlx_diffusion.network.rows import Passage
from mlx_diffusion.options import DEFAULTS, GenerationConfig

HUB = FIXTURES / "hub"


def items(family: str, count: int) -> list[Item]:
    """Prompts for the small checkpoint, with a check that some of its answers pass."""
    messages = [({"role": "user", "content": f"t{20 + n} t{21 + n}"},) for n in range(count)]
    return [Item(family, message, lambda text: len(text) % 2 == 0) for message in messages]


def plan(batch_size: int = 1, **changes: Any) -> EvaluationPlan:
    made = EvaluationPlan(
        {"one": items("one", 4), "two": items("two", 3)},
        variants_of(["reference", "confidence:0.5", "random:0.5"], ["max_denoising_steps=1,2"]),
        seed=0,
        max_tokens=16,
        batch_size=batch_size,
    )
    return replace(made, **changes)


def kept(record: Evaluation) -> dict[tuple[int, str], tuple[PromptOutcome, ...]]:
    return {key: cell.outcomes for key, cell in record.cells.items()}


def test_a_result_depends_neither_on_workers_nor_on_an_interrupt(tmp_path: Path) -> None:
    one = evaluate(HUB, plan(), output=tmp_path / "one.json", workers=1, answers=True)
    assert kept(Evaluation.read(tmp_path / "one.json")) == kept(one)

    output = tmp_path / "two.json"
    seen: list[EvaluationProgress] = []

    def interrupt(progress: EvaluationProgress) -> None:
        seen.append(progress)
        if progress.done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(HUB, plan(), output=output, workers=1, report=interrupt)
    journal = tmp_path / "two.json.part"
    header, *lines = map(json.loads, journal.read_text().splitlines())
    assert not output.exists() and len(lines) == 10 and list(header["plan"])[:2] == ["ways", "families"]
    assert all(list(line) == ["way", "family", "start", "seconds", "outcomes"] for line in lines), "as it always was"
    journal.write_bytes(journal.read_bytes() + b'{"way": 1, "fam')  # the power failed in the middle of a line
    seen.clear()
    two = evaluate(HUB, plan(), output=output, workers=2, report=seen.append, answers=True)
    assert kept(two) == kept(one)
    assert (seen[0].done, seen[-1].done, seen[-1].total, seen[0].earlier) == (11, 42, 42, 10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.json", "two.json"]

    seen.clear()
    assert kept(evaluate(HUB, plan(), output=output, report=seen.append)) == kept(one)
    assert not seen, "what is measured is not measured again"


def test_another_measurement_is_refused(tmp_path: Path) -> None:
    small = plan(variants=variants_of(["reference"], ["max_denoising_steps=2"]))
    evaluate(HUB, small, output=tmp_path / "a.json", workers=1)
    with pytest.raises(EvaluationError, match="another measurement: seed differ; give another --output"):
        evaluate(HUB, replace(small, seed=1), output=tmp_path / "a.json")
    (tmp_path / "a.json").rename(tmp_path / "b.json.part")
    header = Evaluation.read(tmp_path / "b.json.part").header
    (tmp_path / "b.json.part").write_text(json.dumps(header) + "\n")
    with pytest.raises(EvaluationError, match="another measurement: families differ"):
        evaluate(HUB, replace(small, items={"one": items("one", 5)}), output=tmp_path / "b.json")


def test_a_checkpoint_that_changes_while_it_is_evaluated_gives_no_record(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(HUB, folder)

    def swap(progress: object) -> None:
        with (folder / "generation_config.json").open("a") as file:
            file.write("\n")

    small = replace(plan(), items={"one": items("one", 2)})
    with pytest.raises(EvaluationError, match="changed while it was evaluated"):
        evaluate(folder, small, output=tmp_path / "x.json", workers=1, report=swap)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_a_journal_that_is_none_is_one_line(tmp_path: Path) -> None:
    for content in ("something else\n", "[1]\n", "{}\n"):
        (tmp_path / "x.json.part").write_text(content)
        with pytest.raises(EvaluationError, match=r"x\.json\.part"):
            evaluate(HUB, plan(), output=tmp_path / "x.json", workers=1)
        assert (tmp_path / "x.json.part").read_text() == content


def test_a_prompt_in_a_batch_meets_the_noise_that_it_meets_alone(tmp_path: Path) -> None:
    alone = evaluate(HUB, plan(variants=variants_of(["reference"], [])), state=tmp_path, workers=1)
    batched = evaluate(HUB, plan(3, variants=variants_of(["reference"], [])), state=tmp_path, workers=1)
    assert kept(alone) == kept(batched)
    assert not list(tmp_path.iterdir()), "without an output nothing is left behind"
    model, tokenizer = load(HUB)
    texts = [
        generate(model, tokenizer, [*item.messages], max_tokens=16, seed=seed_of(0, "two", index))
        for index, item in enumerate(items("two", 3))
    ]
    assert [outcome.answer for outcome in alone.cells[0, "two"].outcomes] == texts


def test_every_prompt_has_a_seed_of_its_own() -> None:
    seeds = {seed_of(0, family, index) for family in ("copy", "sort") for index in range(1000)}
    assert len(seeds) == 2000


def test_steps_and_limits_are_counted() -> None:
    engine = Examinee.of(HUB)
    three_steps = plan(variants=variants_of(["reference"], ["max_denoising_steps=3"]), max_tokens=32)
    (found,) = run_batch(engine, engine.tokenizer, three_steps, 0, "one", 0).outcomes
    # 32 tokens are two canvases of 16; a random checkpoint never settles.
    assert (found.steps, found.canvases, found.limited, found.tokens) == (6, 2, 2, 32)


def test_ways_of_writing_side_by_side(tmp_path: Path) -> None:
    """Each way has the options that it has, and what it counts is what really ran."""
    ways = variants_of(["all"], ["temperature=0,1", "max_denoising_steps=2", "draft_width=4"])
    labels = [variant.label for variant in ways]
    assert labels == [
        *(f"{mode} max_denoising_steps=2" for mode in DENOISING), "autoregressive temperature=0",
        "autoregressive temperature=1",
        "speculative temperature=0 draft_width=4", "speculative temperature=1 draft_width=4",
    ]  # fmt: skip
    found = evaluate(
        HUB,
        plan(3, variants=ways, items={"one": items("one", 1), "two": items("two", 2)}),
        output=tmp_path / "r.json",
        workers=1,
        answers=True,
    )
    assert kept(Evaluation.read(tmp_path / "r.json")) == kept(found)
    greedy, sampled = ([one.answer for one in found.outcomes(way)] for way in (3, 4))
    assert greedy == [one.answer for one in found.outcomes(5)] and sampled == [one.answer for one in found.outcomes(6)]
    assert greedy != sampled
    model, tokenizer = load(HUB)
    for variant, way in enumerate(ways):
        config = GenerationConfig(max_tokens=16, mode=way.mode.library, seed=seed_of(0, "two", 1)).override(
            dict(way.options)
        )
        prompt = items("two", 2)[1].tokens(tokenizer)
        *_, end = stream_generate(model, tokenizer, prompt, config=config)
        assert isinstance(end, Finish)
        outcome, stats = found.cells[variant, "two"].outcomes[1], end.stats
        work = outcome.all_work(model.config.canvas_length)
        assert count_passes(work) == stats.passes
        assert count_positions(work) == stats.decoder_positions + stats.encoder_positions - len(prompt)
        assert (outcome.steps, outcome.prompt_tokens) == (stats.denoising_steps, len(prompt))
        assert (outcome.accepted, count_drafted(work)) == (stats.accepted_tokens, stats.drafted_tokens)


def test_prompts_of_a_batch_are_drafted_in_turn_and_teach_each_other() -> None:
    """The same text for the same cost, whoever works on the batch; drafts as on a chip, which change no token."""
    engine = Examinee.of(DEMO_FOLDER)
    made = plan(9, items={"copy": draw_items("copy", 9, 0)}, variants=variants_of(
        ["autoregressive", "speculative:M4 Pro"], []))  # fmt: skip
    plain, drafted = (run_batch(engine, engine.tokenizer, made, way, "copy", 0).outcomes for way in (0, 1))
    assert [one.answer for one in plain] == [one.answer for one in drafted]
    assert run_batch(engine, engine.tokenizer, made, 1, "copy", 0).outcomes == drafted
    alone = [run_batch(engine, engine.tokenizer, replace(made, batch_size=1), 1, "copy", n).outcomes[0] for n in (0, 1)]
    assert alone[0] == drafted[0] and alone[1].answer == drafted[1].answer
    assert alone[1].work != drafted[1].work, "it has learned from the first"


def test_an_option_that_no_mode_has_is_refused() -> None:
    with pytest.raises(OptionError, match="--sweep draft_width: no --mode has it; modes that have it: speculative"):
        variants_of(["reference", "autoregressive"], ["draft_width=8"])


def test_a_first_step_is_a_draw_and_an_argmax_at_temperature_one() -> None:
    engine = Examinee.of(HUB)
    model = engine.model
    prompt = items("one", 1)[0].tokens(engine.tokenizer)
    cache = model.make_cache()
    model.encode([Passage(mx.array(prompt), cache)])
    noise = KeyedNoise(3, model.config.vocab_size)
    logits = model.denoise(noise.initial(0, (1, model.config.canvas_length))[0], None, cache)
    draw = np.array(mx.argmax(logits + noise.gumbel(0, 0, (1, *logits.shape))[0], axis=-1)).tolist()
    argmax = np.array(mx.argmax(logits, axis=-1)).tolist()
    assert engine.first_step(prompt, 3) == (engine._text(draw), engine._text(argmax))


def survey_of(probabilities: mx.array, entropies: mx.array) -> Survey:
    tokens = mx.zeros(entropies.shape, mx.int32)
    return Survey(tokens, tokens, probabilities, entropies, tokens, probabilities)


def test_modes() -> None:
    assert MeasuredMode.parse("reference").policy() == REFERENCE
    confidence = MeasuredMode.parse("confidence:0.90")
    assert confidence.name == "confidence:0.9" and confidence.policy() == Policy(Confidence(0.9))
    steps = mx.random.uniform(shape=(2, 100, 64), key=mx.random.key(0))
    rule = RandomAcceptance(0.25)  # a pure function: a trace would keep what it drew first
    canvas = Canvas(steps[0, 0], survey_of(*steps[:, 0]), mx.array(0))
    numbers = Rules.of(DEFAULTS)
    assert mx.array_equal(rule(canvas.survey, canvas, numbers), rule(canvas.survey, canvas, numbers))
    draws = np.stack([np.array(rule(survey_of(*pair), canvas, numbers)) for pair in zip(*steps, strict=True)])  # [., L]
    assert draws.mean() == pytest.approx(0.25, abs=0.02)
    assert np.ptp(draws.mean(axis=0)) < 0.4, "no position is always kept"
    assert (draws[1:] != draws[:-1]).mean() == pytest.approx(0.375, abs=0.03), "a step tells nothing of the next"
    assert RandomAcceptance(1.0)(canvas.survey, canvas, numbers).all()
    on_chip = MeasuredMode.parse("speculative:M5 Max (40)")
    assert (on_chip.library, on_chip.has("draft_width"), on_chip.has("t_min")) == ("speculative", True, False)
    for wrong in (
        "quick",
        "confidence",
        "confidence:x",
        "confidence:2",
        "random:-1",
        "reference:1",
        "speculative:M5 Max",
    ):
        with pytest.raises(OptionError, match="mode"):
            MeasuredMode.parse(wrong)


def test_sweeps() -> None:
    assert parse_sweep("entropy_bound=0.1,0.5") == ("entropy_bound", [0.1, 0.5])
    made = variants_of(["reference", "confidence:0.9"], ["max_denoising_steps=4,8", "t_max=0.9"])
    labels = [variant.label for variant in made]
    assert labels[0] == "reference max_denoising_steps=4 t_max=0.9" and len(labels) == 4
    for wrong in ("steps=4", "max_denoising_steps", "max_denoising_steps=4,x", "max_denoising_steps=0", "mode=1",
                  "max_denoising_steps=1.5"):  # fmt: skip
        with pytest.raises(OptionError, match="--sweep"):
            parse_sweep(wrong)
    with pytest.raises(OptionError, match="given twice"):
        variants_of(["reference"], ["t_max=0.9", "t_max=0.8"])


def test_retrained_weights_are_another_checkpoint(folder: Path) -> None:
    before = fingerprint(folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(folder) != before


def test_every_byte_of_a_checkpoint_counts(tmp_path: Path) -> None:
    """Also those between places that a sample would look at, and of the file that may hold the template."""
    copy = shutil.copytree(DEMO_FOLDER, tmp_path / "copy")
    before = fingerprint(copy)
    for name, place in (("model.safetensors", 3_479_196 // 16 - 100), ("tokenizer_config.json", 10)):
        content = bytearray((DEMO_FOLDER / name).read_bytes())
        content[place] ^= 1
        (copy / name).write_bytes(content)
        assert fingerprint(copy) != before
        shutil.copyfile(DEMO_FOLDER / name, copy / name)


def test_a_record_of_before_all_bytes_counted_still_names_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first bundled one, of whose weights such a record holds a sample's name."""
    monkeypatch.setattr(
        "mlx_diffusion.checkpoint.fingerprint.digest", lambda folder: "b21868d47bafae0d3f8254f5e5b45589"
    )
    assert fingerprint(DEMO_FOLDER) == "8bb855fd6132825c"
