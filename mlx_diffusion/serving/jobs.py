"""Jobs of the engine's thread: a prompt that becomes a row of the engine, or work that takes its own steps.

Knows nothing of HTTP or of what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlx_diffusion.errors import DiffusionError, OptionError, PromptError
from mlx_diffusion.events import Draft, Event, Finish
from mlx_diffusion.options import Settings
from mlx_diffusion.serving.problems import RequestError
from mlx_diffusion.structure.guide import Guide


@dataclass(frozen=True)
class Concluded:
    """What work of its own has come to, where that is no text."""

    value: Any


@dataclass(frozen=True)
class Underway:
    """A step of work of its own that has brought nothing to be delivered."""


class GoneError(Exception):
    """Ends work of its own between two of its passes: nobody waits for it any more, or it came too late."""


Step = Event | Concluded | Underway
Outcome = Step | RequestError


class Wish(NamedTuple):
    """A prompt and its settings: what a row of the engine is made of, or what work of its own was asked for."""

    tokens: Sequence[int]
    settings: Settings
    guide: Guide | None = None  # of what the text must be
    work: Iterator[Step] | None = None  # steps in place of a row's, the last a `Finish` or a `Concluded`


@dataclass(frozen=True, eq=False)
class Job:
    """A wish on its way; `deliver` is called in the engine's thread and must not wait."""

    wish: Wish
    wants_drafts: bool
    until: float  # a reading of time.monotonic
    deliver: Callable[[Sequence[Outcome]], None]

    def wants(self, step: Step) -> bool:
        return not isinstance(step, Underway) and (self.wants_drafts or not isinstance(step, Draft))

    def close(self) -> None:
        """End work of its own, wherever it stands."""
        if isinstance(self.wish.work, Generator):
            self.wish.work.close()


def next_of(work: Iterator[Step]) -> Outcome:
    """The next event of work of its own, or the error that it ends with; others than ours go through."""
    try:
        return next(work)
    except (OptionError, PromptError) as error:
        return RequestError(400, str(error))
    except DiffusionError as error:
        return RequestError(500, str(error))


def ends(outcome: Outcome) -> bool:
    return isinstance(outcome, Finish | Concluded | RequestError)
