"""The errors of a request over HTTP: a status and one sentence each, in no interface's own form.

Knows nothing of what is served.
"""

from mlx_diffusion.display import count_of
from mlx_diffusion.errors import DiffusionError


class RequestError(DiffusionError):
    """A request that is not answered, or not to its end. `status` is HTTP's."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def bad(message: str, param: str | None = None) -> RequestError:
    """What the caller can mend."""
    return RequestError(400, message, param=param)


def check_tokens(asked: int | None, most: int) -> None:
    """Raises RequestError where more tokens are asked for than the server writes."""
    if (asked or 0) > most:
        raise bad(f"{count_of(asked or 0, 'token')} asked for; this server writes {most} at most")


def one_seed(seed: int | None, random_seed: int | None) -> int | None:
    """A seed that may be called by either name. Raises RequestError where the two differ."""
    if None not in (seed, random_seed) and seed != random_seed:
        raise bad(f"seed is {seed} and random_seed {random_seed}; send one of them", "seed")
    return random_seed if seed is None else seed


def too_late(seconds: int) -> RequestError:
    return RequestError(
        504, f"the answer took longer than {count_of(seconds, 'second')}; ask for fewer tokens", code="timeout"
    )


def overloaded(waiting: int) -> RequestError:
    return RequestError(
        503,
        f"{count_of(waiting, 'request')} {'is' if waiting == 1 else 'are'} waiting already; try again later",
        code="overloaded",
    )


def ending() -> RequestError:
    return RequestError(503, "the server is about to end; try again later", code="ending")


def at_fault() -> RequestError:
    """The server's own fault; what it was is in its log, not in the answer."""
    return RequestError(500, "the server failed at this request; its log says why", code="internal_error")
