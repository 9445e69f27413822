"""Finds or downloads a model, and judges by its files whether it fits this machine, before it is loaded.

Knows nothing of what is run with it or of how a warning is shown.
"""

from __future__ import annotations

from pathlib import Path

from mlx_diffusion.checkpoint.folder import Checkpoint, find_folder, local_folder
from mlx_diffusion.checkpoint.hub_files import hub_weight_bytes
from mlx_diffusion.checkpoint.layouts import unclaimed
from mlx_diffusion.checkpoint.published import CONFIG, REPO_ID
from mlx_diffusion.display import size_text
from mlx_diffusion.fit.machine_memory import memory_here
from mlx_diffusion.fit.memory import Memory, item_bytes_on, stored_weight_bytes
from mlx_diffusion.fit.recipe_fits import recipe_fits, recommended, sizes_on
from mlx_diffusion.fit.verdict import Verdict, Warn, copies_that_fit, judge
from mlx_diffusion.json_files import read_json


def find_model(path_or_id: str | Path, warn: Warn, revision: str | None = None) -> Checkpoint:
    """The checkpoint, downloaded if necessary.

    `warn` is told before the download of one that is too large, and what its config does not say of its tensors.
    """
    if local_folder(path_or_id) is None:
        line = download_warning(str(path_or_id))
        if line is not None:
            warn(line)
    found = Checkpoint.open(find_folder(path_or_id, revision))
    line = unclaimed(read_json(found.folder / "config.json"), found.sources, str(path_or_id))
    if line is not None:
        warn(line)
    return found


def verdict_on(name: str, found: Checkpoint, copies: int = 1) -> Verdict:
    """The verdict on the shortest run of a checkpoint, one canvas, on this machine."""
    machine = memory_here()
    raw = read_json(found.folder / "config.json")
    return judge(name, memory_of(found, machine.device), found.config.canvas_length, machine, raw, copies)


def copies_here(found: Checkpoint) -> int | None:
    """The number of copies of a checkpoint that this machine runs side by side; None if its memory is unknown."""
    machine = memory_here()
    return copies_that_fit(memory_of(found, machine.device), found.config.canvas_length, machine)


def memory_of(found: Checkpoint, device: str) -> Memory:
    """The memory that a run of the checkpoint takes on "gpu" or "cpu", from the headers of its files."""
    item_bytes = item_bytes_on(device)
    return Memory(found.config, stored_weight_bytes((one.tensor for one in found.sources), item_bytes), item_bytes)


def download_warning(repo_id: str) -> str | None:
    """One line about a model that is too large for this machine, with a recipe that fits; None if it is not.

    Only the sizes of files are known before a download. Where they cannot be found out, there is no warning.
    """
    machine = memory_here()
    weights, usable = hub_weight_bytes(repo_id), machine.usable_bytes
    if weights is None or usable is None or weights <= usable:
        return None
    recipe = recommended(recipe_fits(sizes_on(machine.device, CONFIG), usable))
    remedy = (
        f"of {REPO_ID} no recipe fits here; `mlx-diffusion doctor` says more"
        if recipe is None
        else f"what fits: mlx-diffusion convert {REPO_ID} OUTPUT --recipe {recipe} --stream"
    )
    return (
        f"the weights of {repo_id} take {size_text(weights)} and a model may use {size_text(usable)} of this machine, "
        f"so it will be slow or fail; {remedy}"
    )
