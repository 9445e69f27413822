"""One base, and the built-in errors that callers expect underneath."""

import pytest

from mlx_diffusion.errors import CheckpointError, DiffusionError, OptionError, PromptError


@pytest.mark.parametrize("kind", [CheckpointError, PromptError, OptionError])
def test_every_error_is_ours_and_a_value_error(kind: type[DiffusionError]) -> None:
    assert issubclass(kind, DiffusionError) and issubclass(kind, ValueError)
    assert str(kind("what, where, what to do")) == "what, where, what to do"


def test_whatever_a_message_is_made_of_it_is_one_short_line() -> None:
    """Names and values come from files and from strangers."""
    message = str(CheckpointError("no\nfile\x1b[2J " + "x" * 1_000_000 + "; give another"))
    assert message.startswith(r"no\nfile\x1b[2J xxx") and message.endswith("xxx; give another")
    assert message.isprintable() and len(message) <= 1000
