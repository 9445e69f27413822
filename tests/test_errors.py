"""One base, and the built-in errors that callers expect underneath."""

import pytest

from mlx_diffusion.errors import CheckpointError, DiffusionError, OptionError, PromptError


@pytest.mark.parametrize("kind", [CheckpointError, PromptError, OptionError])
def test_every_error_is_ours_and_a_value_error(kind: type[DiffusionError]) -> None:
    assert issubclass(kind, DiffusionError) and issubclass(kind, ValueError)
    assert str(kind("what, where, what to do")) == "what, where, what to do"
