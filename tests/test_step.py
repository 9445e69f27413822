"""Steps on scripted logits, against a slow twin that keeps whole histories as the reference does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlx_diffusion.engine.denoising_row import turn_of
from mlx_diffusion.engine.noise import KeyedNoise, SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.engine.rules import Canvas, Policy, Rules
from mlx_diffusion.engine.step import first_canvas, step
from mlx_diffusion.network.head import survey_logits
from mlx_diffusion.network.rows import Seen, View
from mlx_diffusion.network.sampling import columns, gumbel_columns
from mlx_diffusion.network.traces import Traces, plainly
from mlx_diffusion.options import DEFAULTS, Settings

VOCAB, LENGTH = 4, 3
IDENTITY = nn.Embedding(VOCAB, VOCAB)
IDENTITY.weight = mx.eye(VOCAB)  # its soft signal is the probabilities themselves


@dataclass(frozen=True)
class Record:
    """What one step of one row did."""

    canvas: np.ndarray
    soft: np.ndarray
    argmax: np.ndarray
    accepted: np.ndarray
    finished: bool


class Scripted:
    """A network whose logits, [steps, L, V] a row, are written down beforehand; a row's prefix is its script."""

    def __init__(self, compiled: bool = False) -> None:
        self.run: Callable[..., Any] = Traces() if compiled else plainly

    def survey(
        self, views: Sequence[View], temperatures: Sequence[mx.array], gumbels: Sequence[mx.array]
    ) -> list[Seen]:
        found = []
        for view, temperature, gumbel in zip(views, temperatures, gumbels, strict=True):
            logits = mx.array(next(view.prefix).astype(np.float32))  # type: ignore[call-overload]
            shape = logits.shape[0], VOCAB
            parts = [gumbel_columns(gumbel, first, shape) for first in range(0, VOCAB, columns(VOCAB))]
            noise = mx.concatenate(parts, axis=-1)
            if view.positions is not None:
                logits, noise = logits[view.positions], noise[view.positions]
            found.append(Seen(survey_logits(logits / temperature, IDENTITY, noise), ()))
        return found


def options(**changes: object) -> Settings:
    return Settings(**{**vars(DEFAULTS), **changes})


class Walk:
    """One row that takes its steps, alone or beside others."""

    def __init__(self, logits: np.ndarray, settings: Settings, policy: Policy | None = None) -> None:
        self.request = Request((), settings, SeededDraws.of(settings.seed, VOCAB), policy or Policy())
        self.logits, self.script = logits, iter(logits)
        self.canvas: Canvas = first_canvas(
            self.request.draws.initial(0, logits.shape[1]), mx.zeros((logits.shape[1], VOCAB))
        )
        self.records: list[Record] = []

    @property
    def ended(self) -> bool:
        return bool(self.records) and (self.records[-1].finished or len(self.records) == len(self.logits))

    def turn(self) -> Any:
        rules = Rules.of(self.request.settings)
        return turn_of(self.request, self.canvas, self.script, rules, 0, len(self.records))  # type: ignore[arg-type]

    def take(self, stepped: Any) -> None:
        before, self.canvas = self.canvas, stepped.canvas
        tokens, soft, argmax, accepted = map(
            np.array, (before.tokens, before.survey.soft, self.canvas.survey.argmax, stepped.accepted)
        )
        self.records.append(Record(tokens, soft, argmax, accepted, bool(stepped.finished.item())))


def run(walks: Sequence[Walk], network: Scripted, starts: Sequence[int] | None = None) -> None:
    """All walks to their ends; each joins before the pass of this number."""
    starts, number = starts or [0] * len(walks), 0
    while not all(walk.ended for walk in walks):
        going = [walk for walk, start in zip(walks, starts, strict=True) if start <= number and not walk.ended]
        for walk, stepped in zip(going, step(network, [walk.turn() for walk in going]), strict=True):
            walk.take(stepped)
        number += 1


def alone(logits: np.ndarray, settings: Settings, compiled: bool = False) -> list[Record]:
    walk = Walk(logits, settings)
    run([walk], Scripted(compiled))
    return walk.records


def certain(*tokens: int, sharpness: float = 30.0) -> np.ndarray:
    """Logits [L, V] that are sure of these tokens."""
    return sharpness * np.eye(VOCAB)[list(tokens)]


def slow_run(logits: np.ndarray, settings: Settings) -> list[dict[str, Any]]:
    """Transformers' `_denoising_step` and stopping criteria, one position after the other, in NumPy."""
    steps, length, _ = logits.shape
    noise = KeyedNoise(settings.seed, VOCAB)
    canvas = np.array(noise.initial(0, (1, length)))[0]
    history = [np.full(length, -1)] * settings.stability_threshold
    records = []
    for number in range(steps):
        gumbel = np.array(noise.gumbel(0, number, (1, length, VOCAB)))[0]
        fresh = np.array(noise.renoise(0, number, (1, length)))[0]
        temperature = settings.t_min + (settings.t_max - settings.t_min) * (steps - number) / steps
        before, accepted = canvas.copy(), np.zeros(length, bool)
        scaled = logits[number].astype(np.float32) / np.float32(temperature)
        p = np.exp(scaled - scaled.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        entropy = -(p * np.log(np.maximum(p, 1e-38))).sum(-1)
        total = 0.0
        for position in np.argsort(entropy, kind="stable"):
            accepted[position] = total <= settings.entropy_bound
            total += entropy[position]
        canvas = np.where(accepted, (scaled + gumbel).argmax(-1), fresh)
        argmax = scaled.argmax(-1)
        stable = all((old == argmax).all() for old in history)
        history = [*history, argmax][1:] if settings.stability_threshold else []
        finished = bool(stable and entropy.mean() < settings.confidence_threshold)
        records.append({"canvas": before, "argmax": argmax, "accepted": accepted, "finished": finished})
        if finished:
            break
    return records


def assert_equal(ours: Sequence[Record], slow: Sequence[dict[str, Any]]) -> None:
    assert len(ours) == len(slow)
    for record, twin in zip(ours, slow, strict=True):
        assert (record.canvas == twin["canvas"]).all()
        assert (record.argmax == twin["argmax"]).all()
        assert (record.accepted == twin["accepted"]).all()
        assert record.finished == twin["finished"]


def test_a_sure_model_is_done_after_two_steps() -> None:
    records = alone(np.stack([certain(1, 2, 3)] * 5), options(max_denoising_steps=5))
    assert [record.finished for record in records] == [False, True]
    assert records[-1].argmax.tolist() == [1, 2, 3]
    assert records[1].canvas.tolist() == [1, 2, 3]  # all accepted: the samples are the next input


@pytest.mark.parametrize(("stability", "steps"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_stability_k_means_k_plus_one_equal_canvases(stability: int, steps: int) -> None:
    logits = np.stack([certain(1, 2, 3)] * 6)
    assert len(alone(logits, options(max_denoising_steps=6, stability_threshold=stability))) == steps


def test_the_first_soft_signal_is_zero_and_the_next_comes_from_tempered_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(2, LENGTH, VOCAB))
    records = alone(logits, options(max_denoising_steps=2))
    assert not records[0].soft.any()
    expected = mx.softmax(mx.array(logits[0].astype(np.float32)) / 0.8, axis=-1)
    assert np.allclose(records[1].soft, np.array(expected), atol=1e-6)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**32 - 1),
            "length": st.integers(1, 4),
            "stability": st.integers(0, 3),
            "confidence": st.sampled_from([0.05, 0.5, 5.0]),
            "sharpness": st.sampled_from([0.5, 4.0, 20.0]),
            "repeats": st.integers(1, 4),
            "start": st.integers(0, 4),
        }
    ),
    min_size=1,
    max_size=4,
)


@given(rows=ROWS)
@hypothesis_settings(deadline=None, max_examples=40)
def test_rows_of_any_age_length_and_rules_equal_the_slow_twin(rows: list[dict[str, Any]]) -> None:
    walks = []
    for row in rows:
        rng = np.random.default_rng(row["seed"])
        # Every canvas of logits comes `repeats` times, so that canvases do settle.
        logits = np.repeat(row["sharpness"] * rng.normal(size=(3, row["length"], VOCAB)), row["repeats"], axis=0)
        rules = {"stability_threshold": row["stability"], "confidence_threshold": row["confidence"]}
        walks.append(Walk(logits, options(max_denoising_steps=len(logits), seed=row["seed"], **rules)))
    run(walks, Scripted(), [row["start"] for row in rows])
    for walk in walks:
        assert_equal(walk.records, slow_run(walk.logits, walk.request.settings))


def test_traced_rules_are_the_rules() -> None:
    logits = np.repeat(20 * np.random.default_rng(0).normal(size=(3, LENGTH, VOCAB)), 3, axis=0)
    settings = options(max_denoising_steps=9)
    assert_equal(alone(logits, settings, compiled=True), slow_run(logits, settings))


@dataclass(frozen=True)
class Turns:
    """A focus that forwards every other position in turn."""

    def __call__(self, canvas: Canvas, step: int) -> mx.array | None:
        return None if step == 0 else mx.arange(step % 2, canvas.tokens.shape[0], 2)


@pytest.mark.parametrize("compiled", [False, True])
def test_positions_that_rest_keep_what_they_had(compiled: bool) -> None:
    logits = 3 * np.random.default_rng(0).normal(size=(6, 5, VOCAB))
    walk = Walk(logits, options(max_denoising_steps=6, confidence_threshold=1e-9), Policy(focus=Turns()))
    run([walk], Scripted(compiled))
    for number, (before, after) in enumerate(zip(walk.records[1:], walk.records[2:], strict=False), 1):
        resting = np.arange(5) % 2 != number % 2
        assert (after.canvas[resting] == before.canvas[resting]).all()
        assert (after.soft[resting] == before.soft[resting]).all()
        assert (after.soft[~resting] != before.soft[~resting]).any(axis=-1).all()
        expected = logits[number].argmax(-1)
        assert (before.argmax[~resting] == expected[~resting]).all()
