"""The figures of a server since its start, as Prometheus reads them. Knows nothing of what was asked or answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlx_diffusion.events import Stats

COUNTED = {
    "prompt_tokens": "tokens of prompts",
    "cached_tokens": "tokens of prompts that did not have to be encoded",
    "generated_tokens": "tokens written",
    "denoising_steps": "denoising steps",
}
PREFIX = "mlx_diffusion"


@dataclass
class Spent:
    """What a request has cost, filled in by whoever answers it."""

    identity: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    denoising_steps: int = 0
    note: str = ""  # begins with a space

    def add(self, ended: Iterable[Stats]) -> None:
        """Answers have ended."""
        for stats in ended:
            for name in COUNTED:
                setattr(self, name, getattr(self, name) + getattr(stats, name))


class Metrics:
    """Counts of requests, by route and status, and sums of what they cost. Used in the event loop's thread alone."""

    def __init__(self, routes: tuple[str, ...]) -> None:
        """routes: the paths that are counted by their names; all others count as one."""
        self._routes = routes
        self._requests: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._sums: Counter[str] = Counter()

    def count(self, path: str, status: int, seconds: float, spent: Spent) -> None:
        """A request has ended; status 0: without an answer."""
        route = path if path in self._routes else "other"
        self._requests[route, str(status or "gone")] += 1
        self._seconds[route] += seconds
        for name in COUNTED:
            self._sums[name] += getattr(spent, name)

    def text(self, now: Mapping[str, tuple[str, float]]) -> str:
        """Everything in Prometheus's text format; `now` has names of gauges, with their help and value."""
        lines = _head("requests_total", "requests, by route and status", "counter")
        lines += [
            f'{PREFIX}_requests_total{{route="{route}",status="{status}"}} {count}'
            for (route, status), count in sorted(self._requests.items())
        ]
        lines += _head("request_seconds_total", "time from a request's arrival to its end, by route", "counter")
        lines += [
            f'{PREFIX}_request_seconds_total{{route="{route}"}} {seconds:.6f}'
            for route, seconds in sorted(self._seconds.items())
        ]
        for name, said in COUNTED.items():
            lines += [*_head(f"{name}_total", said, "counter"), f"{PREFIX}_{name}_total {self._sums[name]}"]
        for name, (said, value) in now.items():
            lines += [*_head(name, said, "gauge"), f"{PREFIX}_{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, said: str, kind: str) -> list[str]:
    return [f"# HELP {PREFIX}_{name} {said}", f"# TYPE {PREFIX}_{name} {kind}"]
