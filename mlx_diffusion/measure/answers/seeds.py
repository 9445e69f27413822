"""The seed of every measured prompt.

Measured prompts must not share their randomness, or their answers would be right and wrong together and intervals too
narrow; and a prompt must meet the same noise in any company. Knows nothing of prompts.
"""

from __future__ import annotations

from hashlib import blake2b


def seed_of(seed: int, family: str, index: int) -> int:
    """The seed of one prompt: `generate` with it repeats the prompt's run alone."""
    mixed = blake2b(f"{seed} {family} {index}".encode(), digest_size=4).digest()
    return int.from_bytes(mixed, "big")
