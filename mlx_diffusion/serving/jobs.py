"""Jobs of the engine's thread: a prompt that becomes a row of the engine, or work that takes its own steps.

Knows nothing of HTTP or of what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from mlx_diffusion.errors import DiffusionError, OptionError, PromptError
from mlx_diffusion.events import Draft, Event, Finish
from mlx_diffusion.options import Settings
from mlx_diffusion.serving.problems import RequestError

Outcome = Event | RequestError


@dataclass(frozen=True, eq=False)
class Job:
    """A prompt and its settings; `deliver` is called in the engine's thread and must not wait.

    fill: events that are made in place of a row's, one step of the work at a time, the last a `Finish`.
    """

    tokens: Sequence[int]
    settings: Settings
    wants_drafts: bool
    until: float  # a reading of time.monotonic
    deliver: Callable[[Sequence[Outcome]], None]
    fill: Iterator[Event] | None = None

    def wants(self, event: Event) -> bool:
        return self.wants_drafts or not isinstance(event, Draft)

    def close(self) -> None:
        """End work of its own, wherever it stands."""
        if isinstance(self.fill, Generator):
            self.fill.close()


def next_of(fill: Iterator[Event]) -> Outcome:
    """The next event of work of its own, or the error that it ends with; others than ours go through."""
    try:
        return next(fill)
    except (OptionError, PromptError) as error:
        return RequestError(400, str(error))
    except DiffusionError as error:
        return RequestError(500, str(error))


def ends(outcome: Outcome) -> bool:
    return isinstance(outcome, Finish | RequestError)
