"""The bounds of a server: how much it takes on, how long it waits, and how large a request may be.

Knows nothing of HTTP or of models.
"""

from dataclasses import dataclass, fields

from mlx_diffusion.errors import OptionError


@dataclass(frozen=True)
class Limits:
    """Raises OptionError for one that is below 1.

    max_requests   requests that are answered at once; each is a row of the engine, and n choices are n of them
    max_waiting    requests that wait for their turn; any further one is refused
    max_tokens     the most that a request may ask for, in tokens
    max_choices    the most choices of one request: prompts times n
    max_bytes      of a request's body
    body_seconds   in which a request's body must have come
    answer_seconds in which a request must have been answered, the time that it waits included
    grace_seconds  that requests under way have to finish once the server is asked to end
    """

    max_requests: int = 8
    max_waiting: int = 64
    max_tokens: int = 8192
    max_choices: int = 8
    max_bytes: int = 16_000_000
    body_seconds: int = 30
    answer_seconds: int = 600
    grace_seconds: int = 30

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise OptionError(f"{field.name} is {getattr(self, field.name)}; it must be 1 or more")
