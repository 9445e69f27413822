"""One canvas on scripted logits, against a slow twin that keeps whole histories as the reference does."""

import math
from types import SimpleNamespace
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlx_diffusion.engine.denoise import Denoiser, StepRecord
from mlx_diffusion.engine.noise import KeyedNoise
from mlx_diffusion.engine.sampler import EntropyBound
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.head import Survey, survey_logits
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.sampling import columns, gumbel_columns
from mlx_diffusion.options import DEFAULTS, Settings

VOCAB, LENGTH = 4, 3
CACHE = cast(PrefixCache, SimpleNamespace(prefix=lambda: None))  # scripted logits need no prefix
IDENTITY = nn.Embedding(VOCAB, VOCAB)
IDENTITY.weight = mx.eye(VOCAB)  # its soft signal is the probabilities themselves


class Scripted:
    """A model whose logits [steps, B, L, V] are written down beforehand; it notes what it is given."""

    def __init__(self, logits: np.ndarray):
        self.logits = logits.astype(np.float32)
        self.config = SimpleNamespace(canvas_length=logits.shape[2], vocab_size=logits.shape[3])
        self.compiled = False
        self.canvases: list[np.ndarray] = []
        self.softs: list[np.ndarray] = []

    def no_signal(self, shape: tuple[int, int]) -> mx.array:
        return mx.zeros((*shape, VOCAB))

    def survey(self, canvas: mx.array, soft: mx.array, prefix: None, temperature: mx.array, gumbel: mx.array) -> Survey:
        self.canvases.append(np.array(canvas))
        self.softs.append(np.array(soft))
        logits = mx.array(self.logits[len(self.canvases) - 1])
        parts = [gumbel_columns(gumbel, first, logits.shape) for first in range(0, VOCAB, columns(VOCAB))]
        return survey_logits(logits / temperature, IDENTITY, mx.concatenate(parts, axis=-1))


def denoiser(model: Scripted, settings: Settings) -> Denoiser:
    noise = KeyedNoise(settings.seed, VOCAB)
    return Denoiser(cast(DiffusionGemma, model), settings, noise, EntropyBound(settings.entropy_bound))


def run(model: Scripted, settings: Settings, ended: tuple[bool, ...] | None = None) -> list[StepRecord]:
    ended = ended or (False,) * model.logits.shape[1]
    return list(denoiser(model, settings).canvas(CACHE, block=0, ended=ended))


def options(**changes: object) -> Settings:
    return Settings(**{**vars(DEFAULTS), **changes})


def certain(*tokens: int, sharpness: float = 30.0) -> np.ndarray:
    """Logits [L, V] that are sure of these tokens."""
    return sharpness * np.eye(VOCAB)[list(tokens)]


def slow_run(logits: np.ndarray, settings: Settings) -> list[dict[str, np.ndarray]]:
    """Transformers' `_denoising_step` and stopping criteria, one row and one position after the other, in NumPy."""
    steps, batch, length, _ = logits.shape
    noise = KeyedNoise(settings.seed, VOCAB)
    canvas = np.array(noise.initial(0, (batch, length)))
    result = canvas.copy()
    history = [[np.full(length, -1)] * settings.stability_threshold for _ in range(batch)]
    done = [False] * batch
    records = []
    for step in range(steps):
        gumbel = np.array(noise.gumbel(0, step, (batch, length, VOCAB)))
        fresh = np.array(noise.renoise(0, step, (batch, length)))
        temperature = settings.t_min + (settings.t_max - settings.t_min) * (steps - step) / steps
        before, accepted = canvas.copy(), np.zeros((batch, length), bool)
        for row in range(batch):
            scaled = logits[step, row].astype(np.float32) / np.float32(temperature)
            p = np.exp(scaled - scaled.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            entropy = -(p * np.log(np.maximum(p, 1e-38))).sum(-1)
            total = 0.0
            for position in np.argsort(entropy, kind="stable"):
                accepted[row, position] = total <= settings.entropy_bound
                total += entropy[position]
            if done[row]:
                continue
            sampled = (scaled + gumbel[row]).argmax(-1)
            canvas[row] = np.where(accepted[row], sampled, fresh[row])
            result[row] = scaled.argmax(-1)
            stable = all((old == result[row]).all() for old in history[row])
            history[row] = [*history[row], result[row].copy()][1:] if settings.stability_threshold else []
            done[row] = stable and entropy.mean() < settings.confidence_threshold
        records.append({"canvas": before, "argmax": result.copy(), "accepted": accepted, "done": np.array(done)})
        if all(done):
            break
    return records


def test_a_sure_model_is_done_after_two_steps() -> None:
    model = Scripted(np.stack([certain(1, 2, 3)[None]] * 5))
    records = run(model, options(max_denoising_steps=5))
    assert len(records) == 2
    assert records[-1].argmax.tolist() == [[1, 2, 3]]
    assert [record.done for record in records] == [(False,), (True,)]
    assert model.canvases[1].tolist() == [[1, 2, 3]]  # all accepted: the samples are the next input


def test_an_unsure_model_takes_all_steps_and_gives_its_last_argmax() -> None:
    logits = np.stack([certain(1, 1, 1, sharpness=0.1)[None]] * 3 + [certain(2, 2, 2, sharpness=0.1)[None]])
    records = run(Scripted(logits), options(max_denoising_steps=4))
    assert len(records) == 4
    assert records[-1].argmax.tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(("stability", "steps"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_stability_k_means_k_plus_one_equal_canvases(stability: int, steps: int) -> None:
    model = Scripted(np.stack([certain(1, 2, 3)[None]] * 6))
    assert len(run(model, options(max_denoising_steps=6, stability_threshold=stability))) == steps


def test_a_finished_row_stays_as_it_is_while_others_go_on() -> None:
    first = [certain(1, 2, 3), certain(1, 2, 3), certain(0, 0, 0), certain(2, 2, 2)]
    second = [certain(1, 1, 1), certain(2, 2, 2), certain(3, 3, 3), certain(3, 3, 3)]
    model = Scripted(np.stack([np.stack(rows) for rows in zip(first, second, strict=True)]))
    records = run(model, options(max_denoising_steps=4))
    assert [record.done for record in records] == [(False, False), (True, False), (True, False), (True, True)]
    assert records[-1].argmax.tolist() == [[1, 2, 3], [3, 3, 3]]
    assert model.canvases[2][0].tolist() == model.canvases[3][0].tolist() == [1, 2, 3]
    assert (model.softs[3][0] == model.softs[2][0]).all()
    assert (model.softs[3][1] != model.softs[2][1]).any()


def test_nobody_waits_for_a_row_whose_text_has_ended() -> None:
    logits = np.stack([np.stack([certain(1, 2, 3), certain(1, 1, 1, sharpness=0.1)])] * 6)
    assert len(run(Scripted(logits), options(max_denoising_steps=6))) == 6
    assert len(run(Scripted(logits), options(max_denoising_steps=6), ended=(False, True))) == 2


def test_the_first_soft_signal_is_zero_and_the_next_comes_from_tempered_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 1, LENGTH, VOCAB))
    model = Scripted(logits)
    run(model, options(max_denoising_steps=2))
    assert not model.softs[0].any()
    expected = mx.softmax(mx.array(logits[0].astype(np.float32)) / 0.8, axis=-1)
    assert np.allclose(model.softs[1], np.array(expected), atol=1e-6)


def test_nan_is_an_error_of_one_line() -> None:
    logits = np.stack([certain(1, 2, 3)[None]] * 3) * 0.01
    logits[1, 0, 2, 0] = math.nan
    with pytest.raises(CheckpointError, match=r"NaN at block 0, step 1.*again") as error:
        run(Scripted(logits), options(max_denoising_steps=3))
    assert "\n" not in str(error.value)


def test_a_closed_run_asks_the_model_for_no_further_step() -> None:
    model = Scripted(np.stack([certain(1, 2, 3, sharpness=0.1)[None]] * 8))
    steps = denoiser(model, options(max_denoising_steps=8)).canvas(CACHE, block=0, ended=(False,))
    next(steps)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(model.canvases) == 2


@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    stability=st.integers(0, 3),
    confidence=st.sampled_from([0.05, 0.5, 5.0]),
    sharpness=st.sampled_from([0.5, 4.0, 20.0]),
    repeats=st.integers(1, 4),
)
@hypothesis_settings(deadline=None, max_examples=40)
def test_equals_the_slow_twin(
    seed: int, batch: int, stability: int, confidence: float, sharpness: float, repeats: int
) -> None:
    rng = np.random.default_rng(seed)
    # Every canvas of logits comes `repeats` times, nearly alike, so that canvases do settle.
    logits = np.repeat(sharpness * rng.normal(size=(3, batch, LENGTH, VOCAB)), repeats, axis=0)
    settings = options(
        max_denoising_steps=len(logits), stability_threshold=stability, confidence_threshold=confidence, seed=seed
    )
    fast, slow = run(Scripted(logits), settings), slow_run(logits, settings)
    assert len(fast) == len(slow)
    for ours, twin in zip(fast, slow, strict=True):
        assert (np.array(ours.canvas) == twin["canvas"]).all()
        assert (np.array(ours.argmax) == twin["argmax"]).all()
        assert (np.array(ours.accepted) == twin["accepted"]).all()
        assert list(ours.done) == twin["done"].tolist()


def test_traced_rules_are_the_rules() -> None:
    rng = np.random.default_rng(0)
    logits = np.repeat(20 * rng.normal(size=(3, 2, LENGTH, VOCAB)), 3, axis=0)
    eager, traced = Scripted(logits), Scripted(logits)
    traced.compiled = True
    for ours, twin in zip(*(run(model, options(max_denoising_steps=9)) for model in (traced, eager)), strict=True):
        assert ours.done == twin.done
        for name in ("canvas", "argmax", "accepted"):
            assert mx.array_equal(getattr(ours, name), getattr(twin, name))
