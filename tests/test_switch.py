"""The layer of experts against mlx-lm's, dense and quantised."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.models.switch_layers import SwitchLinear as Theirs

from mlx_diffusion.network.switch import SwitchLinear

FORMATS = [(32, 4, "affine"), (64, 8, "affine"), (32, 4, "mxfp4"), (32, 8, "mxfp8"), (16, 4, "nvfp4")]


@pytest.mark.parametrize("quantised", [None, *FORMATS], ids=str)
def test_it_computes_what_mlx_lms_does(quantised: tuple[int, int, str] | None) -> None:
    ours: Any = SwitchLinear(64, 48, 3)
    theirs: Any = Theirs(64, 48, 3, bias=False)
    assert ours.input_dims == theirs.input_dims == 64 and ours.weight.shape == theirs.weight.shape
    theirs.weight = ours.weight
    if quantised:
        group_size, bits, mode = quantised
        ours, theirs = ours.to_quantized(group_size, bits, mode), theirs.to_quantized(group_size, bits, mode)
        assert isinstance(ours, QuantizedSwitchLinear) and ours.parameters().keys() == theirs.parameters().keys()
    x, experts = mx.random.normal((4, 1, 64)), mx.array([0, 0, 1, 2])
    for ascending in (True, False):
        made = ours(x, experts, sorted_indices=ascending)
        assert made.shape == (4, 1, 48) and mx.array_equal(made, theirs(x, experts, sorted_indices=ascending))
