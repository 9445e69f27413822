"""The folder where this program keeps its state, by the system's rules. Knows nothing of what that is."""

import sys
from collections.abc import Mapping
from pathlib import Path


def state_folder(environment: Mapping[str, str]) -> Path:
    """The folder of this program; it may not exist yet."""
    given = environment.get("XDG_STATE_HOME")
    if given and Path(given).is_absolute():
        return Path(given) / "mlx-diffusion"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mlx-diffusion"
    return Path.home() / ".local" / "state" / "mlx-diffusion"
