"""The folder where this program keeps its state, by the system's rules. Knows nothing of what that is."""

import sys
from collections.abc import Mapping
from pathlib import Path

from mlx_diffusion.errors import DiffusionError


class StateError(DiffusionError):
    """A state that cannot be kept or read."""


def state_folder(environment: Mapping[str, str]) -> Path:
    """The folder of this program; it may not exist yet. Raises StateError where no home folder is known."""
    given = environment.get("XDG_STATE_HOME")
    if given and Path(given).is_absolute():
        return Path(given) / "mlx-diffusion"
    try:
        home = Path.home()
    except RuntimeError:
        raise StateError("no home folder is known here; set XDG_STATE_HOME to a folder of yours") from None
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "mlx-diffusion"
    return home / ".local" / "state" / "mlx-diffusion"


def make_state_folder(folder: Path) -> None:
    """Make a folder for state, which only the user may read. Raises StateError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"{folder} cannot be made ({error.strerror}); set XDG_STATE_HOME to a folder of yours"
        ) from None
