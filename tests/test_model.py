"""Parity of both passes with Transformers, and what must not change a result: padding, company, chunking, lanes."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, ReferenceRun, model_of

from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.model import DiffusionGemma

# The bundled checkpoint's outputs reach 12, where float32 alone is far off: MLX 1.1e-5 from float64, PyTorch 0.7e-5.
ENCODER_BOUND, OF_THE_LARGEST, LOGITS_BOUND = 1e-5, 2e-6, 2e-4


def encode_prompt(run: ReferenceRun, model: DiffusionGemma) -> tuple[np.ndarray, PrefixCache]:
    cache = model.make_cache(run.left_padding)
    hidden = model.encode(mx.array(run.prompt_ids), cache)
    return np.asarray(hidden), cache


def test_encoder_is_transformers(reference_run: ReferenceRun, reference_model: DiffusionGemma) -> None:
    hidden, cache = encode_prompt(reference_run, reference_model)
    expected = reference_run.encoder_last_hidden  # pads included
    assert np.abs(hidden - expected).max() < max(ENCODER_BOUND, OF_THE_LARGEST * np.abs(expected).max())
    assert cache.offset == reference_run.prompt_ids.shape[1]


def test_first_logits_are_transformers(reference_run: ReferenceRun, reference_model: DiffusionGemma) -> None:
    _, cache = encode_prompt(reference_run, reference_model)
    logits = reference_model.denoise(mx.array(reference_run.tape.initial[0]), None, cache)
    assert logits.dtype == mx.float32
    expected = reference_run.first_logits
    ours = np.asarray(logits)[:, : expected.shape[1]]
    assert np.abs(ours - expected).max() < LOGITS_BOUND
    assert (ours.argmax(-1) == expected.argmax(-1)).all()


def test_later_steps_and_blocks_are_transformers(reference_run: ReferenceRun, reference_model: DiffusionGemma) -> None:
    """Walk the recorded canvases: argmax of every step of every block, with self-conditioning and chained blocks."""
    _, cache = encode_prompt(reference_run, reference_model)
    prompt, length = reference_run.prompt_ids.shape[1], reference_run.canvas.shape[2]
    first, limit = 0, reference_run.tape.gumbel.shape[1]
    for block, steps in enumerate(reference_run.steps):
        soft, argmax, done = None, None, np.zeros(len(reference_run.prompt_ids), bool)
        for step in range(first, first + steps):
            logits = reference_model.denoise(mx.array(reference_run.canvas[step]), soft, cache)
            processed = logits / (0.4 + 0.4 * (limit - (step - first)) / limit)
            soft = reference_model.soft_embedding(processed)
            same = np.asarray(processed).argmax(-1) == reference_run.argmax[step]
            assert same[~done].all()
            argmax, before = reference_run.argmax[step], argmax
            if before is not None:  # a row that has ended keeps its old soft signal: compare only those that go on
                confident = reference_run.entropy[step].mean(-1) < 0.005
                done |= (argmax == before).all(-1) & confident
        first += steps
        start = prompt + block * length
        reference_model.encode(mx.array(reference_run.sequences[:, start : start + length]), cache)


@pytest.mark.parametrize("name", ["hub", "transformers"])
def test_a_row_is_the_same_alone_and_in_company(name: str) -> None:
    model = model_of(FIXTURES / name)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 90, size).tolist() for size in (4, 12, 31)]
    canvas = mx.array(rng.integers(0, 96, (3, 16)))
    pads = [31 - len(p) for p in prompts]
    cache = model.make_cache(pads)
    batch = mx.array([[0] * n + p for n, p in zip(pads, prompts, strict=True)])
    hidden = np.asarray(model.encode(batch, cache))
    logits = np.asarray(model.denoise(canvas, None, cache))
    for row, prompt in enumerate(prompts):
        alone = model.make_cache([0])
        one = np.asarray(model.encode(mx.array([prompt]), alone))
        assert np.abs(one[0] - hidden[row, pads[row] :]).max() < 1e-5
        assert np.abs(np.asarray(model.denoise(canvas[row : row + 1], None, alone))[0] - logits[row]).max() < 2e-4
