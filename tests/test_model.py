"""Parity of both passes with Transformers, and what must not change a result: company, lengths, parts."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from conftest import FIXTURES, ReferenceRun, config_dict, hub_tensors, model_of

from mlx_diffusion.checkpoint import weights
from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.network.cache import PrefixCache
from mlx_diffusion.network.flat import Flat
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.network.rows import Passage, Seen, View

# The bundled checkpoint's outputs reach 12, where float32 alone is far off: MLX 1.1e-5 from float64, PyTorch 0.7e-5.
ENCODER_BOUND, OF_THE_LARGEST, LOGITS_BOUND = 1e-5, 2e-6, 2e-4

FIRST_STEPS = 4  # of a block, with which all has been met that later ones bring


def encode_prompts(run: ReferenceRun, model: DiffusionGemma) -> tuple[list[np.ndarray], list[PrefixCache]]:
    """The hidden states of each row's prompt, all rows in one pass, and what each row's cache then holds."""
    caches = [model.make_cache() for _ in run.prompts]
    passages = [Passage(mx.array(prompt), cache) for prompt, cache in zip(run.prompts, caches, strict=True)]
    hidden = model.encode(passages)
    return [np.asarray(row) for row in Flat.of([len(prompt) for prompt in run.prompts]).take(hidden)], caches


def test_encoder_is_transformers(reference_run: ReferenceRun, reference_model: DiffusionGemma) -> None:
    hidden, caches = encode_prompts(reference_run, reference_model)
    for ours, expected, pads in zip(hidden, reference_run.encoder_last_hidden, reference_run.left_padding, strict=True):
        expected = expected[pads:]
        assert np.abs(ours - expected).max() < max(ENCODER_BOUND, OF_THE_LARGEST * np.abs(expected).max())
    assert [cache.offset for cache in caches] == [len(prompt) for prompt in reference_run.prompts]


def test_first_logits_are_transformers(reference_run: ReferenceRun, reference_model: DiffusionGemma) -> None:
    _, caches = encode_prompts(reference_run, reference_model)
    for row, cache in enumerate(caches):
        logits = reference_model.denoise(mx.array(reference_run.tape.initial[0, row]), None, cache)
        assert logits.dtype == mx.float32
        expected = reference_run.first_logits[row]
        ours = np.asarray(logits)[: len(expected)]
        assert np.abs(ours - expected).max() < LOGITS_BOUND
        assert (ours.argmax(-1) == expected.argmax(-1)).all()


def test_later_steps_and_blocks_are_transformers(reference_run: ReferenceRun, reference_model: DiffusionGemma) -> None:
    """Walk the recorded canvases: argmax of each block's first steps, with self-conditioning and chained blocks."""
    _, caches = encode_prompts(reference_run, reference_model)
    prompt, length = reference_run.prompt_ids.shape[1], reference_run.canvas.shape[2]
    limit = reference_run.tape.renoise.shape[1]
    for row, cache in enumerate(caches):
        first = 0
        for block, steps in enumerate(reference_run.steps.tolist()):
            soft, before = None, None
            for step in range(first, first + min(steps, FIRST_STEPS)):
                logits = reference_model.denoise(mx.array(reference_run.canvas[step, row]), soft, cache)
                processed = logits / (0.4 + 0.4 * (limit - (step - first)) / limit)
                soft = reference_model.soft_embedding(processed)
                assert (np.asarray(processed).argmax(-1) == reference_run.argmax[step, row]).all()
                argmax = reference_run.argmax[step, row]
                confident = reference_run.entropy[step, row].mean() < 0.005
                if before is not None and (argmax == before).all() and confident:
                    break  # a row that has ended keeps its old soft signal
                before = argmax
            first += steps
            start = prompt + block * length
            reference_model.encode([Passage(mx.array(reference_run.sequences[row, start : start + length]), cache)])


@pytest.mark.parametrize("name", ["hub", "transformers"])
def test_a_row_is_the_same_alone_and_in_company(name: str) -> None:
    """To the bit, on a CPU: whatever runs beside it, of whatever length."""
    model = model_of(FIXTURES / name)
    rng = np.random.default_rng(3)
    prompts = [mx.array(rng.integers(3, 90, size)) for size in (4, 12, 31)]
    canvases = [mx.array(rng.integers(0, 96, size)) for size in (16, 5, 11)]
    temperatures, gumbels = [mx.array([heat]) for heat in (0.4, 0.8, 0.6)], [mx.random.key(i) for i in range(3)]
    caches = [model.make_cache() for _ in prompts]
    hidden = Flat.of([prompt.size for prompt in prompts]).take(model.encode(list(map(Passage, prompts, caches))))
    views = [View(canvas, model.no_signal(canvas.size), c.prefix()) for canvas, c in zip(canvases, caches, strict=True)]
    together = model.survey(views, temperatures, gumbels)
    for row, prompt in enumerate(prompts):
        alone = model.make_cache()
        assert mx.array_equal(model.encode([Passage(prompt, alone)]), hidden[row])
        own = slice(row, row + 1)
        (seen,) = model.survey([views[row]._replace(prefix=alone.prefix())], temperatures[own], gumbels[own])
        assert all(map(mx.array_equal, seen.survey, together[row].survey))


@pytest.mark.parametrize("name", ["hub", "transformers"])
def test_a_canvas_beside_the_tokens_before_it_gives_what_it_gives_behind_them(name: str) -> None:
    """In one pass with several rows' tokens, of which only some bring a canvas; beyond the window, too."""
    model = model_of(FIXTURES / name)
    rng = np.random.default_rng(4)
    heads, tails = ([mx.array(rng.integers(3, 90, size)) for size in sizes] for sizes in ((30, 3, 9), (4, 12, 31)))
    canvases = [mx.array(rng.integers(0, 96, 7)), None, mx.array(rng.integers(0, 96, 16))]
    together, apart = [model.make_cache() for _ in heads], [model.make_cache() for _ in heads]
    for caches in (together, apart):
        model.encode(list(map(Passage, heads, caches)))
    plain = model.encode([Passage(*row, 1) for row in zip(tails, apart, strict=True)])
    joined = model.encode(
        [Passage(tail, cache, 1, own) for tail, cache, own in zip(tails, together, canvases, strict=True)]
    )
    assert np.allclose(joined[: len(tails)], plain, atol=ENCODER_BOUND)
    for one, other in zip(together, apart, strict=True):
        assert one.offset == other.offset
        assert all(map(partial(np.allclose, atol=ENCODER_BOUND), one.arrays(), other.arrays()))
    behind = [(own, cache) for own, cache in zip(canvases, apart, strict=True) if own is not None]
    views = [View(own, model.no_signal(own.size), cache.prefix()) for own, cache in behind]
    asked = [mx.array([0.8])] * 2, [mx.zeros((0,))] * 2
    for seen, expected in zip(
        model.survey_hidden(joined[len(tails) :], views, *asked), model.survey(views, *asked), strict=True
    ):
        assert all(map(partial(np.allclose, atol=1e-4), seen.survey, expected.survey))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_part_of_a_canvas_sees_what_the_rest_last_offered(compiled: bool) -> None:
    """Against the plain way: the whole canvas forwarded with the old tokens and soft signal where positions rest.

    In one layer that is the same, since a position's keys and values depend on itself alone; below it, on the others
    too, so here the model has one.
    """
    config = ModelConfig.from_dict(config_dict(layer_types=["full_attention"], num_hidden_layers=1))
    model = DiffusionGemma(config)
    weights.fill(model, hub_tensors(config), None, where="test")
    model.compiled = compiled
    rng = np.random.default_rng(0)
    cache = model.make_cache()
    model.encode([Passage(mx.array(rng.integers(3, 64, 5)), cache)])
    prefix, heat, key = cache.prefix(), [mx.array([0.7])], [mx.random.key(1)]
    tokens, soft = mx.array(rng.integers(3, 64, 7)), mx.random.normal((7, 64))
    before: Seen = model.survey([View(tokens, soft, prefix)], heat, key)[0]
    positions = mx.array([1, 2, 5])
    later = mx.array(rng.integers(3, 64, 7))
    mixed = mx.where((mx.arange(7)[:, None] == positions).any(axis=-1), later, tokens)
    (whole,) = model.survey([View(mixed, soft, prefix)], heat, key)
    view = View(later[positions], soft[positions], prefix, positions, before.kept)
    (part,) = model.survey([view], heat, key)
    assert mx.array_equal(part.survey.argmax, whole.survey.argmax[positions])
    assert mx.array_equal(part.survey.sample, whole.survey.sample[positions])
    assert np.abs(np.array(part.survey.entropy - whole.survey.entropy[positions])).max() < 1e-5
    for ours, twin in zip(part.kept, whole.kept, strict=True):
        assert all(np.abs(np.array(a - b)).max() < 1e-5 for a, b in zip(ours, twin, strict=True))
