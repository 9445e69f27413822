"""The verdict on a run: what it needs, what the machine has, and what would fit instead."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from conftest import config_dict, write_checkpoint

from mlx_diffusion.checkpoint.config import ModelConfig
from mlx_diffusion.checkpoint.headers import read_header
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fit.machine_memory import MachineMemory
from mlx_diffusion.fit.memory import CPU_ITEM, Memory, stored_weight_bytes
from mlx_diffusion.fit.verdict import copies_that_fit, judge

RAW = config_dict(hidden_size=128, intermediate_size=128, moe_intermediate_size=128)


def machine(memory: int, device: str = "cpu") -> MachineMemory:
    return MachineMemory(device, memory, memory * 3 // 4 if device == "gpu" else None)


def test_what_does_not_fit_is_told_with_numbers_and_the_recipe_that_would() -> None:
    memory = Memory(ModelConfig.from_dict(RAW), 10_000_000, CPU_ITEM)
    needed = memory.total_bytes(100)
    told: list[str] = []
    judge("it", memory, 100, machine(2 * needed), RAW).heed(told.append)
    assert not told
    judge("it", memory, 100, machine(needed + 1), RAW).heed(told.append)
    (slow,) = told
    assert "may have to swap; the recipe 4bit would fit" in slow and "weights 10.00 MB" in slow
    with pytest.raises(CheckpointError, match=r"it needs .* with 100 tokens .*this machine has .*the recipe 4bit"):
        judge("it", memory, 100, machine(needed - 1), RAW).heed(told.append)
    with pytest.raises(CheckpointError, match="this machine has"):
        judge("it", memory, 100, machine(needed + 1, "gpu"), RAW).heed(told.append)
    with pytest.raises(CheckpointError, match="no recipe fits"):
        judge("it", memory, 100, machine(1000), RAW).heed(told.append)


def test_every_copy_of_a_model_counts() -> None:
    memory = Memory(ModelConfig.from_dict(RAW), 10_000_000, CPU_ITEM)
    here = machine(4 * memory.total_bytes(100))  # three quarters of it for models
    assert judge("it", memory, 100, here, RAW, copies=3).fits
    four = judge("it", memory, 100, here, RAW, copies=4)
    assert not four.fits and four.can_run and "in each of 4 workers" in four.line
    assert judge("it", memory, 100, here, RAW, copies=5).line.endswith("; --workers 3 would fit")
    assert copies_that_fit(memory, 100, here) == 3
    assert copies_that_fit(memory, 100, replace(here, memory_bytes=None)) is None


def test_weights_are_counted_from_the_headers(tmp_path: Path) -> None:
    tensors = {
        "model.decoder.norm.weight": mx.ones((8,), dtype=mx.bfloat16),
        "model.decoder.x.weight": mx.zeros((3,), dtype=mx.uint32),
        "model.encoder.vision_tower.y": mx.ones((9,)),
    }
    folder = write_checkpoint(tmp_path, {}, tensors)
    stored = (entry.tensor for entry in read_header(folder / "model.safetensors"))
    assert stored_weight_bytes(stored, CPU_ITEM) == 8 * 4 + 3 * 4
