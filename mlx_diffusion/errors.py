"""The errors that the library raises on purpose, each one line: what is wrong, where, and what to do about it.

Knows nothing of models, checkpoints or tokens: whoever raises an error writes its message, and may put into it what a
file or a user says. The command catches `DiffusionError` in one place; any other exception is a bug and shows its
traceback.
"""

from mlx_diffusion.visible_text import notice


class DiffusionError(Exception):
    """Base of all errors that this library raises on purpose. Its message is made one line of bounded length."""

    def __init__(self, message: str) -> None:
        super().__init__(notice(message))


class CheckpointError(DiffusionError, ValueError):
    """A checkpoint that cannot be found, read or trusted: folder, id, config or tensors."""


class PromptError(DiffusionError, ValueError):
    """A prompt that the model cannot take: empty, past the context, or with ids outside the vocabulary."""


class OptionError(DiffusionError, ValueError):
    """A generation option with a value outside its bounds (an unknown option is a TypeError)."""


class ConversionError(DiffusionError):
    """A conversion that cannot start, be resumed or be trusted: target folder, disk, interruption, verification."""


class EvaluationError(DiffusionError):
    """A measurement that cannot be made, resumed or compared: a suite's file, a record, a missing plot library."""


class ForkError(DiffusionError, RuntimeError):
    """Work asked of a process that was forked from one in which MLX had computed."""
