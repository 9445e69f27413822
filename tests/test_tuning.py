"""The settings of a device: kept and read again, and what each of them changes and does not change in a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import RUNS, read_run
from test_generation import TapedNoise

from mlx_diffusion import tuning as settings
from mlx_diffusion.device import as_on_a_gpu
from mlx_diffusion.events import Draft
from mlx_diffusion.generation import stream_generate
from mlx_diffusion.loading import load
from mlx_diffusion.network import attention
from mlx_diffusion.network.attention import attend_both_ways
from mlx_diffusion.network.layers import Experts
from mlx_diffusion.network.switch import SwitchLinear
from mlx_diffusion.state import StateError
from mlx_diffusion.tuning import Kept, Tuning, keep, kept_file, read_kept, using

OTHER = Tuning("float16", 96, (256,))


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_settings_are_kept_for_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_kept() is None and settings._of_this_process.__wrapped__() == Tuning()
    assert keep(Kept.here(OTHER)) == kept_file()
    assert read_kept() == Kept.here(OTHER) and settings._of_this_process.__wrapped__() == OTHER
    monkeypatch.setattr(settings, "device_name", lambda: "Apple M9")
    assert settings._of_this_process.__wrapped__() == Tuning()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"chip": "a", "mlx": "b"}', b'{"chip": "a", "mlx": "b", "tuning": {"projections": "int4"}}'],
)
def test_a_damaged_file_is_one_line(content: bytes) -> None:
    keep(Kept.here(OTHER)).write_bytes(content)
    with pytest.raises(StateError, match=r"^\S+device\.json holds no settings"):
        settings._of_this_process.__wrapped__()


@pytest.mark.parametrize(("architecture", "products"), [("applegpu_g13s", "float16"), ("applegpu_g16s", None)])
def test_the_first_two_generations_multiply_in_float16(
    architecture: str, products: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx, "device_info", lambda: {"architecture": architecture})
    with as_on_a_gpu():
        assert settings.default_tuning() == Tuning(products)


# The first run on each checkpoint; experts of the bundled one go beyond what float16 holds.
@pytest.mark.parametrize("name", ["hub-0", "transformers-10", "two-full-20", "demo-30"])
def test_float16_products_choose_the_tokens_of_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual stream is in bf16, and experts are multiplied as a GPU does: a CPU's MLX has no such kernel."""

    def multiply(self: SwitchLinear, x: mx.array, experts: mx.array, sorted_indices: bool = False) -> mx.array:
        weight = self["weight"].swapaxes(-1, -2).astype(mx.float32)
        product = mx.gather_mm(x.astype(mx.float32), weight, rhs_indices=experts, sorted_indices=sorted_indices)
        return product.astype(x.dtype)

    monkeypatch.setattr(SwitchLinear, "__call__", multiply)
    run = read_run(next(run for run in RUNS if run["name"] == name))
    with as_on_a_gpu(), using(Tuning("float16")):
        model, tokenizer = load(run.checkpoint)
        model.compiled = False
        assert (model.dtype, model.projection_dtype) == (mx.bfloat16, mx.float16)
        options: dict[str, Any] = {"noise": TapedNoise(run.tape), "max_tokens": run.max_new_tokens}
        first_step = np.concatenate([[0], np.cumsum(run.steps)])
        events = list(stream_generate(model, tokenizer, run.prompts, **options))
    compared = 0  # until a near tie falls out otherwise, and with it a sample
    for draft in (event for event in events if isinstance(event, Draft)):
        at = first_step[draft.block] + draft.step, draft.row
        if at[0] < len(run.canvas) and (draft.canvas == run.canvas[at]).all():
            assert (draft.argmax == run.argmax[at]).all()
            compared += 1
    assert compared >= 2


@pytest.mark.parametrize("prefix", [0, 5, 12])
def test_joined_keys_are_attended_to_as_parts(prefix: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By MLX's own attention in the kernel's place, which no CPU has."""
    plain = mx.fast.scaled_dot_product_attention
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda *a, force_fused=False, **b: plain(*a, **b))
    keys = iter(mx.random.split(mx.random.key(prefix), 5))
    queries = mx.random.normal((1, 4, 6, 16), key=next(keys))
    canvas = mx.random.normal((1, 2, 8, 16), key=next(keys)), mx.random.normal((1, 2, 8, 16), key=next(keys))
    before = mx.random.normal((1, 2, prefix, 16), key=next(keys)), mx.random.normal((1, 2, prefix, 16), key=next(keys))
    present, seen = (mx.arange(8) < 6)[None], (mx.arange(prefix) >= 2)[None]
    for masks in ((None, None), (present, None), (None, seen), (present, seen)):
        made = []
        for fused in (False, True):
            monkeypatch.setattr(attention, "attends_fused", lambda *_, own=fused: own)
            made.append(attend_both_ways(queries, canvas, masks[0], before if prefix else (), masks[1]))
        assert made[0].shape == (6, 4, 16) and mx.abs(made[0] - made[1]).max() < 1e-5


def test_experts_need_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load("demo")
    experts: Experts = model.layers[0].experts
    x, chosen = mx.random.normal((5, 128), key=mx.random.key(0)), mx.array([[1, 4], [4, 0], [7, 1], [0, 1], [2, 7]])
    weights = mx.random.uniform(shape=(5, 2), key=mx.random.key(1))
    with using(Tuning(sort_from=6)):
        unsorted = experts(x, chosen, weights)
    with using(Tuning(sort_from=5)):
        made = experts(x, chosen, weights)
    assert mx.abs(made - unsorted).max() < 1e-5 * mx.abs(made).max()
