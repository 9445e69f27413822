"""One caller's request to the engine, complete and checked.

Knows nothing of how it is answered.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_diffusion.engine.noise import Draws
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.engine.rules import Policy
from mlx_diffusion.options import Settings


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, and everything that decides what follows it."""

    tokens: tuple[int, ...]
    settings: Settings
    draws: Draws
    policy: Policy
    prefixes: PrefixStore | None = None  # what it has kept is not encoded again
