"""Opens a checkpoint for a command, after making sure that it fits this machine.

Knows nothing of what is run with it.
"""

import sys
from pathlib import Path

from mlx_diffusion.checkpoint import folder as checkpoint
from mlx_diffusion.cli import room
from mlx_diffusion.fit.machine import this_machine
from mlx_diffusion.fit.memory import CPU_ITEM, GPU_ITEM, Memory
from mlx_diffusion.fit.room import check_room, stored_weight_bytes
from mlx_diffusion.json_fields import read_json
from mlx_diffusion.loading import load
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.tokenizer import Tokenizer


def open_model(name: str) -> tuple[DiffusionGemma, Tokenizer]:
    """`load`, refused beforehand where not even one canvas fits: a CheckpointError with the recipe that would.

    A warning of one line comes before the download of a model that is too large, and before a load that is tight.
    """
    if name != "demo" and not Path(name).expanduser().is_dir():
        _warn(room.warning(name))
    found = checkpoint.Checkpoint.open(checkpoint.find(name))
    machine = this_machine(found.folder)
    item_bytes = GPU_ITEM if machine.device == "gpu" else CPU_ITEM
    memory = Memory(found.config, stored_weight_bytes(found.files, item_bytes), item_bytes)
    _warn(check_room(memory, found.config.canvas_length, machine, name, read_json(found.folder / "config.json")))
    return load(found.folder)


def _warn(line: str | None) -> None:
    if line is not None:
        print(f"mlx-diffusion: {line}", file=sys.stderr, flush=True)
