"""Whether a model's weights will find room in this machine's memory, before they are downloaded.

The sizes of their files are all that it looks at. What cannot be found out is no reason to warn.
"""

import huggingface_hub

from mlx_diffusion.checkpoint.hub_errors import hub_errors
from mlx_diffusion.checkpoint.published import CONFIG, REPO_ID
from mlx_diffusion.display import size_text
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.fit.diagnosis import recommended, runnable, sizes_on
from mlx_diffusion.fit.machine import this_machine


def warning(model: str) -> str | None:
    """One line about a model that is too large for this machine, with the recipe that fits; None if all is well."""
    machine = this_machine()
    weights, room = weight_bytes(model), machine.usable_bytes
    if weights is None or room is None or weights <= room:
        return None
    recipe = recommended(runnable(sizes_on(machine.device, CONFIG), room))
    remedy = (
        f"of {REPO_ID} no recipe fits here; `mlx-diffusion doctor` says more"
        if recipe is None
        else f"what fits: mlx-diffusion convert {REPO_ID} OUTPUT --recipe {recipe} --stream"
    )
    return (
        f"the weights of {model} take {size_text(weights)} and a model may use {size_text(room)} of this machine, "
        f"so it will be slow or fail; {remedy}"
    )


def weight_bytes(model: str) -> int | None:
    """The size of a model's weight files on the Hub."""
    try:
        with hub_errors(model):
            files = huggingface_hub.HfApi().model_info(model, files_metadata=True, timeout=10).siblings or []
    except CheckpointError:
        return None  # loading says what is wrong, or finds it in the Hub's cache
    return sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))
