"""The reference still answers as well as it was recorded to, and a broken sampler does not."""

import json
from collections.abc import Sequence

import floor
import pytest

from mlx_diffusion.checkpoint.fingerprint import fingerprint
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.modes import DENOISING

RECORDED = json.loads(floor.FLOOR.read_text())


def test_the_floor_is_the_bundled_checkpoint_s() -> None:
    assert RECORDED["checkpoint"] == fingerprint(DEMO_FOLDER), "the weights changed: run python tests/floor.py"
    assert list(RECORDED["modes"]) == [DENOISING[0]]


@pytest.mark.parametrize("mode", ["reference", "fast"])
def test_no_mode_falls_below_the_floor(mode: str) -> None:
    """The floor is what the reference reached; what a calibrated mode may lose is less than it lies below."""
    recorded = RECORDED["modes"][DENOISING[0]]
    first = floor.measure(mode, floor.ENOUGH, seed=0)
    if floor.below(first, recorded, floor.CHECKED):
        assert not floor.below(first | floor.measure(mode, floor.REST, seed=0), recorded)


def found(rights: Sequence[int]) -> floor.Counts:
    return {family: [right, 12] for family, right in zip(floor.CHECKED, rights, strict=True)}


def test_noise_is_no_fall_and_a_fall_is_no_noise() -> None:
    recorded = {family: [54, 60] for family in floor.CHECKED}  # a floor of 80 %
    assert floor.below(found([9] * 6), recorded) == []
    (one,) = floor.below(found([4, 12, 12, 12, 12, 12]), recorded)
    assert one.startswith("shuffle: 4 of 12")
    (every,) = floor.below(found([7] * 6), recorded)
    assert every.startswith("all: 42 of 72")
    more = dict.fromkeys(floor.CHECKED, 14)
    assert floor.below(found([11] * 6), recorded, more) == []
    assert floor.below(found([9] * 6), recorded, more)[0].startswith("all: 54 of 84")


def test_acceptance_by_chance_falls_below() -> None:
    """On the shuffles that the floor is held with; 19 positions in 20 are accepted, which takes few steps."""
    shuffles = floor.measure("random:0.95", {"shuffle": floor.ENOUGH["shuffle"]}, seed=0)
    fallen = floor.below(shuffles, RECORDED["modes"]["reference"])
    assert fallen and fallen[0].startswith("shuffle: ")
