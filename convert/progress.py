"""The progress of a conversion in bytes of the source: how much is done, how fast, how long the rest will take.

Knows nothing of terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """A moment of a conversion, in bytes of the source. An earlier run's share is done, but does not count as speed."""

    done_bytes: int
    total_bytes: int
    seconds: float
    bytes_per_second: float
    file: str

    @property
    def fraction(self) -> float:
        return self.done_bytes / self.total_bytes if self.total_bytes else 1.0

    @property
    def seconds_left(self) -> float | None:
        if not self.bytes_per_second:
            return None
        return (self.total_bytes - self.done_bytes) / self.bytes_per_second


@dataclass
class Meter:
    """Counts bytes and tells `report` after each chunk."""

    total_bytes: int
    done_bytes: int
    report: Callable[[Progress], None] | None
    file: str = ""
    began: float = field(default_factory=time.monotonic)
    earlier: int = field(init=False)

    def __post_init__(self) -> None:
        self.earlier = self.done_bytes

    def advance(self, nbytes: int) -> None:
        self.done_bytes += nbytes
        if self.report is not None:
            seconds = time.monotonic() - self.began
            rate = (self.done_bytes - self.earlier) / seconds if seconds > 0 else 0.0
            self.report(Progress(self.done_bytes, self.total_bytes, seconds, rate, self.file))
